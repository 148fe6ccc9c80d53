//! Lookup by name in a list kept in file order.

/// The indices of a list's items, sorted by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Index(Vec<usize>);

impl Index {
    /// Builds the index of `items`. The error is a name that occurs twice.
    pub(super) fn new<T>(items: &[T], name: impl Fn(&T) -> &str) -> Result<Self, String> {
        let name_at = |i: &usize| items.get(*i).map(&name);
        let mut order: Vec<usize> = (0..items.len()).collect();
        // A stable sort: equal names stay in list order.
        order.sort_by_key(name_at);
        let twice = order.windows(2).map(|pair| (name_at(&pair[0]), name_at(&pair[1]))).find(|(a, b)| a == b);
        match twice {
            Some((name, _)) => Err(name.unwrap_or_default().to_owned()),
            None => Ok(Self(order)),
        }
    }

    /// Returns the item named `wanted`. `items` must be the list that was indexed.
    pub(super) fn find<'a, T>(&self, items: &'a [T], name: impl Fn(&T) -> &str, wanted: &str) -> Option<&'a T> {
        let found = self.0.binary_search_by(|&i| items.get(i).map(&name).cmp(&Some(wanted))).ok()?;
        items.get(*self.0.get(found)?)
    }
}
