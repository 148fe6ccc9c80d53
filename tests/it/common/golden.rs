//! Goldens: logits of the float64 reference for small models, written by `tools/make_goldens.py`, and the comparison of
//! an engine's logits with them.

use serde_json::Value;

/// A golden: a model, a prompt and the expected continuation and logits.
#[derive(Debug, Clone)]
pub struct Golden {
    /// The name of the model's file, without `.gguf`.
    pub model: String,
    /// The [`fnv1a`] hash of the model's file.
    pub fnv1a: u64,
    /// The prompt's tokens.
    pub tokens: Vec<u32>,
    /// The expectation with an f32 KV cache.
    pub f32: Expected,
    /// The expectation with an f16 KV cache.
    pub f16: Expected,
}

/// The reference's results. Every list except `greedy` has a row for each token of the prompt, then for each token of
/// `greedy`.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The greedy continuation: each token has the largest logit of the row before it.
    pub greedy: Vec<u32>,
    /// The largest logits and their tokens.
    pub top: Vec<Vec<(u32, f64)>>,
    /// The largest magnitude of a logit.
    pub max_abs: Vec<f64>,
    /// The smallest gap between the last chosen and the first rejected expert, over this and all earlier positions.
    /// `None` for dense models.
    pub margin: Vec<Option<f64>>,
}

/// The bound on the difference from the golden logits.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// The largest allowed difference, relative to `max(10, max |logit|)` of the row.
    pub factor: f64,
    /// Rows with a smaller margin are skipped: rounding may select another expert.
    pub margin_min: f64,
}

impl Tolerance {
    /// For an f32 KV cache.
    pub const F32: Self = Self { factor: 2e-5, margin_min: 1e-4 };
    /// For an f16 KV cache: rounding a key to its other f16 neighbour changes it by 2⁻¹¹.
    pub const F16: Self = Self { factor: 1e-4, margin_min: 1e-3 };
}

impl Golden {
    /// Reads all goldens of a file in `tests/golden`.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or has another format.
    pub fn read_all(file: &str) -> Result<Vec<Self>, String> {
        let goldens = list(&read(file)?, Self::parse).filter(|goldens| !goldens.is_empty());
        goldens.ok_or_else(|| format!("{file}: not in the format of make_goldens.py"))
    }

    /// Checks that the golden is for the model file `bytes`.
    ///
    /// # Errors
    /// Returns an error if it is for another file.
    pub fn check_model(&self, bytes: &[u8]) -> Result<(), String> {
        check_model(&self.model, self.fnv1a, bytes)
    }

    fn parse(json: &Value) -> Option<Self> {
        let golden = Self {
            model: json.get("model")?.as_str()?.to_owned(),
            fnv1a: u64::from_str_radix(json.get("fnv1a")?.as_str()?, 16).ok()?,
            tokens: list(json.get("tokens")?, id)?,
            f32: Expected::parse(json.get("f32")?)?,
            f16: Expected::parse(json.get("f16")?)?,
        };
        let whole = |kv: &Expected| {
            let rows = golden.tokens.len() + kv.greedy.len();
            [kv.top.len(), kv.max_abs.len(), kv.margin.len()] == [rows; 3] && kv.top.iter().all(|top| !top.is_empty())
        };
        (!golden.tokens.is_empty() && whole(&golden.f32) && whole(&golden.f16)).then_some(golden)
    }
}

/// The reference's pooled hidden states.
#[derive(Debug, Clone)]
pub struct Embeddings {
    /// The name of the model's file, without `.gguf`.
    pub model: String,
    fnv1a: u64,
    /// The tokens.
    pub tokens: Vec<u32>,
    /// The mean of their hidden states.
    pub mean: Vec<f64>,
    /// The hidden state of the last.
    pub last: Vec<f64>,
}

impl Embeddings {
    /// Reads all goldens of a file in `tests/golden`.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or has another format.
    pub fn read_all(file: &str) -> Result<Vec<Self>, String> {
        list(&read(file)?, Self::parse).ok_or_else(|| format!("{file}: not in the format of make_goldens.py"))
    }

    /// Checks that the golden is for the model file `bytes`.
    ///
    /// # Errors
    /// Returns an error if it is for another file.
    pub fn check_model(&self, bytes: &[u8]) -> Result<(), String> {
        check_model(&self.model, self.fnv1a, bytes)
    }

    fn parse(json: &Value) -> Option<Self> {
        Some(Self {
            model: json.get("model")?.as_str()?.to_owned(),
            fnv1a: u64::from_str_radix(json.get("fnv1a")?.as_str()?, 16).ok()?,
            tokens: list(json.get("tokens")?, id)?,
            mean: list(json.get("mean")?, Value::as_f64)?,
            last: list(json.get("last")?, Value::as_f64)?,
        })
    }
}

/// The reference's next-token probabilities in conversations.
#[derive(Debug, Clone)]
pub struct Probabilities {
    model: String,
    fnv1a: u64,
    /// The conversations.
    pub answers: Vec<Answer>,
}

/// A conversation with its expected probabilities.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The tokens of prompt and answer.
    pub tokens: Vec<u32>,
    /// A row for each token: the most probable next tokens and their log probabilities.
    pub top: Vec<Vec<(u32, f64)>>,
}

impl Probabilities {
    /// Reads the single golden of a file in `tests/golden`.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or has another format.
    pub fn read(file: &str) -> Result<Self, String> {
        let json = read(file)?;
        json.get(0).and_then(Self::parse).ok_or_else(|| format!("{file}: not in the format of make_goldens.py"))
    }

    /// Checks that the golden is for the model file `bytes`.
    ///
    /// # Errors
    /// Returns an error if it is for another file.
    pub fn check_model(&self, bytes: &[u8]) -> Result<(), String> {
        check_model(&self.model, self.fnv1a, bytes)
    }

    fn parse(json: &Value) -> Option<Self> {
        let answer = |json: &Value| {
            let (tokens, top) = (list(json.get("tokens")?, id)?, list(json.get("top")?, |row| list(row, pair))?);
            (tokens.len() == top.len() && top.iter().all(|row| !row.is_empty())).then_some(Answer { tokens, top })
        };
        Some(Self {
            model: json.get("model")?.as_str()?.to_owned(),
            fnv1a: u64::from_str_radix(json.get("fnv1a")?.as_str()?, 16).ok()?,
            answers: list(json.get("answers")?, answer)?,
        })
    }
}

fn pair(json: &Value) -> Option<(u32, f64)> {
    Some((id(json.get(0)?)?, json.get(1)?.as_f64()?))
}

fn read(file: &str) -> Result<Value, String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn check_model(model: &str, hash: u64, bytes: &[u8]) -> Result<(), String> {
    if fnv1a(bytes) == hash {
        return Ok(());
    }
    Err(format!("{model}: the golden is for a file with another hash; regenerate it with tools/make_goldens.py"))
}

impl Expected {
    fn parse(json: &Value) -> Option<Self> {
        let margin = |json: &Value| if json.is_null() { Some(None) } else { json.as_f64().map(Some) };
        Some(Self {
            greedy: list(json.get("greedy")?, id)?,
            top: list(json.get("top")?, |row| list(row, pair))?,
            max_abs: list(json.get("max_abs")?, Value::as_f64)?,
            margin: list(json.get("margin")?, margin)?,
        })
    }

    /// Compares each row's logits with the golden ones. `rows` are those of the prompt, then those of `greedy`'s
    /// tokens, generated or forced. Trailing rows may be missing.
    ///
    /// Returns the largest difference relative to the bound.
    ///
    /// # Errors
    /// Returns the first row outside its bound or missing, or that no row could be compared.
    pub fn check(&self, rows: &[Vec<f32>], tolerance: Tolerance) -> Result<f64, String> {
        let prompt_rows = self.top.len() - self.greedy.len();
        if rows.len() > self.top.len() {
            return Err(format!("{} rows of logits, but the golden has {}", rows.len(), self.top.len()));
        }
        let mut worst = 0.0_f64;
        let mut compared = 0;
        for (i, row) in rows.iter().enumerate() {
            // Margins never grow, so all later rows are below the minimum as well.
            if self.margin[i].is_some_and(|margin| margin < tolerance.margin_min) {
                break;
            }
            let allowed = tolerance.factor * self.max_abs[i].max(10.0);
            for &(id, expected) in &self.top[i] {
                let found = row.get(id as usize).copied().ok_or_else(|| format!("row {i} has no token {id}"))?;
                let ratio = (f64::from(found) - expected).abs() / allowed;
                // Rejects NaN as well.
                if !matches!(ratio.partial_cmp(&1.0), Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal)) {
                    return Err(format!("row {i}, token {id}: {found}, expected {expected} within {allowed:.2e}"));
                }
                worst = worst.max(ratio);
            }
            if let Some(&next) = (i + 1).checked_sub(prompt_rows).and_then(|n| self.greedy.get(n)) {
                let found = argmax(row);
                if found != Some(next) {
                    return Err(format!("row {i}: the argmax is token {found:?}, expected {next}"));
                }
            }
            compared += 1;
        }
        if compared == 0 {
            return Err(format!("none of {} rows could be compared", rows.len()));
        }
        Ok(worst)
    }
}

/// Returns the index of the largest logit, the first of equal ones.
fn argmax(row: &[f32]) -> Option<u32> {
    let best = row.iter().enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best })?;
    u32::try_from(best.0).ok()
}

fn list<T>(json: &Value, item: impl FnMut(&Value) -> Option<T>) -> Option<Vec<T>> {
    json.as_array()?.iter().map(item).collect()
}

fn id(json: &Value) -> Option<u32> {
    json.as_u64()?.try_into().ok()
}

/// Returns the 64-bit FNV-1a hash.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}
