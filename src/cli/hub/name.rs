//! Names of models on the Hub, and which of a repository's files they mean.

use super::super::{exit::Failure, output::printable};

/// The quantization of names that give none.
const DEFAULT_QUANT: &str = "Q4_K_M";

/// The name of a model: `ORG/REPO[:QUANT]` or `ORG/REPO/FILE.gguf`, with or without `hf.co/` or `https://huggingface.co/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub(super) org: String,
    pub(super) repo: String,
    /// A quantization, or a file.
    pub(super) wanted: Wanted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Default,
    Quant(String),
    File(String),
}

impl Name {
    /// Parses a name. Returns `None` for what can be no name.
    pub fn parse(text: &str) -> Option<Self> {
        let mut text = text;
        for prefix in ["https://", "http://"] {
            text = text.strip_prefix(prefix).unwrap_or(text);
        }
        for prefix in ["huggingface.co/", "hf.co/", "hf:"] {
            text = text.strip_prefix(prefix).unwrap_or(text);
        }
        let part = |part: &str| -> bool {
            let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.len() <= 96 && part.chars().all(fine)
        };
        let (org, rest) = text.split_once('/')?;
        let (repo, wanted) = match rest.split_once('/') {
            None => match rest.split_once(':') {
                None => (rest, Wanted::Default),
                Some((repo, quant)) if part(quant) => (repo, Wanted::Quant(quant.to_owned())),
                Some(_) => return None,
            },
            Some((repo, file)) => {
                let file = file.strip_prefix("resolve/main/").or(file.strip_prefix("blob/main/")).unwrap_or(file);
                if !file.ends_with(".gguf") || !file.split('/').all(part) {
                    return None;
                }
                (repo, Wanted::File(file.to_owned()))
            }
        };
        let is_file = wanted == Wanted::Default && repo.ends_with(".gguf");
        let fine = part(org) && part(repo) && !is_file && !org.contains("--") && !repo.contains("--");
        fine.then(|| Self { org: org.to_owned(), repo: repo.to_owned(), wanted })
    }

    /// Returns the names of files that are wanted of all of a repository: the parts of one model.
    pub(super) fn choose<'f>(&self, files: impl Iterator<Item = &'f str>) -> Result<Vec<String>, Failure> {
        let all: Vec<&str> = files.filter(|file| file.ends_with(".gguf") && !file.contains("mmproj")).collect();
        // The parts of a split file count as its first.
        let mut heads: Vec<&str> =
            all.iter().copied().filter(|file| part_of(file).is_none_or(|(_, n, _)| n == 1)).collect();
        heads.sort_unstable();
        let by_quant = |quant: &str| -> Vec<&str> {
            heads.iter().copied().filter(|file| quant_of(file).eq_ignore_ascii_case(quant)).collect()
        };
        let found: Vec<&str> = match &self.wanted {
            Wanted::File(wanted) => heads.iter().copied().filter(|file| file == wanted).collect(),
            Wanted::Quant(quant) => by_quant(quant),
            Wanted::Default => match by_quant(DEFAULT_QUANT) {
                none if none.is_empty() && heads.len() == 1 => heads.clone(),
                found => found,
            },
        };
        let [head] = found[..] else {
            let known = heads.iter().map(|file| printable(file)).collect::<Vec<_>>().join(", ");
            let problem = if found.is_empty() { "has no such file" } else { "has several such files" };
            return Err(Failure::model(format!("{self} {problem}; its models are: {known}")));
        };
        let Some((base, _, count)) = part_of(head) else { return Ok(vec![head.to_owned()]) };
        let parts: Vec<String> = (1..=count).map(|n| format!("{base}-{n:05}-of-{count:05}.gguf")).collect();
        match parts.iter().find(|part| !all.contains(&part.as_str())) {
            Some(missing) => Err(Failure::model(format!("{self}: the part {missing} is missing"))),
            None => Ok(parts),
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.org, self.repo)?;
        match &self.wanted {
            Wanted::Default => Ok(()),
            Wanted::Quant(quant) => write!(f, ":{quant}"),
            Wanted::File(file) => write!(f, "/{file}"),
        }
    }
}

/// Returns base, number and count of a part of a split file.
pub(super) fn part_of(file: &str) -> Option<(&str, u32, u32)> {
    let stem = file.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (base, number) = rest.rsplit_once('-')?;
    let parse = |digits: &str| (digits.len() == 5).then(|| digits.parse::<u32>().ok()).flatten();
    parse(number).zip(parse(count)).filter(|(n, count)| (1..=*count).contains(n)).map(|(n, count)| (base, n, count))
}

/// Returns the quantization in a file's name: what follows the last dash or dot of its stem, such as `Q4_K_M` or `UD-Q2_K_XL`.
pub(super) fn quant_of(file: &str) -> &str {
    let stem = file.strip_suffix(".gguf").unwrap_or(file);
    let stem = part_of(file).map_or(stem, |(base, ..)| base);
    let name = stem.rsplit('/').next().unwrap_or(stem);
    let quant = name.rsplit(['-', '.']).next().unwrap_or(name);
    match name.len().checked_sub(quant.len() + 3).and_then(|at| name.get(at..)) {
        Some(with) if with.starts_with("UD-") => with,
        _ => quant,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed() {
        let name = |org: &str, repo: &str, wanted| Some(Name { org: org.to_owned(), repo: repo.to_owned(), wanted });
        let quant = || Wanted::Quant("q8_0".to_owned());
        assert_eq!(Name::parse("a/b"), name("a", "b", Wanted::Default));
        assert_eq!(Name::parse("hf.co/a/b.c-GGUF:q8_0"), name("a", "b.c-GGUF", quant()));
        assert_eq!(Name::parse("https://huggingface.co/a/b"), name("a", "b", Wanted::Default));
        let file = Wanted::File("x/y.gguf".to_owned());
        assert_eq!(Name::parse("https://huggingface.co/a/b/resolve/main/x/y.gguf"), name("a", "b", file));
        for wrong in
            ["a", "/a/b", "../b", "a/b/c", "a/../x.gguf", "a/b.gguf", "a/b:", "a/.b", "models/x/../../y.gguf", "a b/c"]
        {
            assert_eq!(Name::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn files_are_chosen() {
        let files = [
            "m-Q4_K_M.gguf",
            "m-Q8_0.gguf",
            "b/m-BF16-00001-of-00002.gguf",
            "b/m-BF16-00002-of-00002.gguf",
            "mmproj-F16.gguf",
            "m-UD-Q4_K_M.gguf",
        ];
        let choose = |name: &str| Name::parse(name).expect("a name").choose(files.into_iter()).ok();
        assert_eq!(choose("a/b"), Some(vec![files[0].to_owned()]));
        assert_eq!(choose("a/b:q8_0"), Some(vec![files[1].to_owned()]));
        assert_eq!(choose("a/b:bf16"), Some(vec![files[2].to_owned(), files[3].to_owned()]));
        assert_eq!(choose("a/b:ud-q4_k_m"), Some(vec![files[5].to_owned()]));
        assert_eq!(choose("a/b:Q2_K"), None);
        assert_eq!(choose("a/b/m-Q8_0.gguf"), Some(vec![files[1].to_owned()]));
    }
}
