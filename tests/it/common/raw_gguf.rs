//! A GGUF file as raw fields, so that tests can corrupt any of them.

/// GGUF's type numbers of strings and arrays.
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;

/// A file. Claimed counts and lengths are separate from the actual ones.
#[derive(Clone, Debug)]
pub struct RawGguf {
    pub magic: u32,
    pub version: u32,
    /// The claimed count, if it differs from the actual one.
    pub tensor_count: Option<u64>,
    pub entry_count: Option<u64>,
    pub entries: Vec<Entry>,
    pub tensors: Vec<Tensor>,
    /// The alignment of the data section in bytes.
    pub alignment: usize,
    pub data: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: Vec<u8>,
    pub key_len: Option<u64>,
    pub ty: u32,
    /// The serialised value, including its lengths.
    pub value: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: Vec<u8>,
    pub name_len: Option<u64>,
    pub dimensions: Option<u32>,
    pub shape: Vec<u64>,
    pub ty: u32,
    pub offset: u64,
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("four bytes"))
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().expect("eight bytes"))
    }

    fn string(&mut self) -> Vec<u8> {
        let len = self.u64() as usize;
        self.take(len).to_vec()
    }

    fn skip_value(&mut self, ty: u32) {
        match ty {
            0 | 1 | 7 => _ = self.take(1),
            2 | 3 => _ = self.take(2),
            4..=6 => _ = self.take(4),
            STRING => _ = self.string(),
            ARRAY => {
                let (ty, len) = (self.u32(), self.u64());
                (0..len).for_each(|_| self.skip_value(ty));
            }
            _ => _ = self.take(8),
        }
    }
}

impl RawGguf {
    /// Parses a valid file.
    pub fn of(file: &[u8], alignment: usize) -> Self {
        let mut fields = Fields(file);
        let (magic, version) = (fields.u32(), fields.u32());
        let (tensor_count, entry_count) = (fields.u64(), fields.u64());
        let entry = |fields: &mut Fields<'_>| {
            let (key, ty, before) = (fields.string(), fields.u32(), fields.0);
            fields.skip_value(ty);
            Entry { key, key_len: None, ty, value: before[..before.len() - fields.0.len()].to_vec() }
        };
        let entries = (0..entry_count).map(|_| entry(&mut fields)).collect();
        let tensor = |fields: &mut Fields<'_>| {
            let (name, dimensions) = (fields.string(), fields.u32());
            let shape = (0..dimensions).map(|_| fields.u64()).collect();
            Tensor { name, name_len: None, dimensions: None, shape, ty: fields.u32(), offset: fields.u64() }
        };
        let tensors = (0..tensor_count).map(|_| tensor(&mut fields)).collect();
        let start = (file.len() - fields.0.len()).next_multiple_of(alignment);
        let (tensor_count, entry_count) = (None, None);
        Self { magic, version, tensor_count, entry_count, entries, tensors, alignment, data: file[start..].to_vec() }
    }

    /// Serialises the file, including its faults.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.magic.to_le_bytes());
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.entry_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        for entry in &self.entries {
            out.extend(entry.key_len.unwrap_or(entry.key.len() as u64).to_le_bytes());
            out.extend(&entry.key);
            out.extend(entry.ty.to_le_bytes());
            out.extend(&entry.value);
        }
        for tensor in &self.tensors {
            out.extend(tensor.name_len.unwrap_or(tensor.name.len() as u64).to_le_bytes());
            out.extend(&tensor.name);
            out.extend(tensor.dimensions.unwrap_or(tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().for_each(|n| out.extend(n.to_le_bytes()));
            out.extend(tensor.ty.to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(&self.data);
        out
    }
}
