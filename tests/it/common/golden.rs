//! What the float64 reference computes for small models, as `tools/make_goldens.py` wrote it down, and the comparison of
//! logits with it.

use serde_json::Value;

/// A model's golden: a prompt, and what follows it.
#[derive(Debug, Clone)]
pub struct Golden {
    /// The model's name: its file's, without `.gguf`.
    pub model: String,
    /// [`fnv1a`] of the file: the golden is for these bytes only.
    pub fnv1a: u64,
    /// The prompt.
    pub tokens: Vec<u32>,
    /// With a KV cache of f32.
    pub f32: Expected,
    /// With a KV cache of f16.
    pub f16: Expected,
}

/// What the reference found. Each list but the first has a row for each token of the prompt, and of `greedy` after it.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The tokens that follow the prompt, each of them the one with the largest logit of the row before it.
    pub greedy: Vec<u32>,
    /// The largest logits, with their tokens.
    pub top: Vec<Vec<(u32, f64)>>,
    /// The largest magnitude of a logit.
    pub max_abs: Vec<f64>,
    /// By how much the choice of experts was made, here or at any position before; `None` where there is none to make.
    pub margin: Vec<Option<f64>>,
}

/// How near logits must be to the golden ones.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// The largest difference, as a share of the row's largest magnitude, or of 10 if that is more.
    pub factor: f64,
    /// Rows whose margin is smaller are not compared: rounding may have taken another expert.
    pub margin_min: f64,
}

impl Tolerance {
    /// For a KV cache of f32.
    pub const F32: Self = Self { factor: 2e-5, margin_min: 1e-4 };
    /// For a KV cache of f16: a key that is rounded to the other side differs by 2⁻¹¹.
    pub const F16: Self = Self { factor: 1e-4, margin_min: 1e-3 };
}

impl Golden {
    /// The goldens of a file in `tests/golden`.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn read_all(file: &str) -> Result<Vec<Self>, String> {
        let goldens = list(&read(file)?, Self::parse).filter(|goldens| !goldens.is_empty());
        goldens.ok_or_else(|| format!("{file}: not what make_goldens.py writes"))
    }

    /// Whether the golden is for the model with these bytes.
    ///
    /// # Errors
    /// That it is not, and what to do about it.
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

/// What the reference expects after each token of conversations.
#[derive(Debug, Clone)]
pub struct Probabilities {
    model: String,
    fnv1a: u64,
    /// The conversations.
    pub answers: Vec<Answer>,
}

/// A conversation.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Prompt and answer.
    pub tokens: Vec<u32>,
    /// A row for each token: the likeliest tokens for what follows, with the logarithms of their probabilities.
    pub top: Vec<Vec<(u32, f64)>>,
}

impl Probabilities {
    /// The only golden of a file in `tests/golden`.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn read(file: &str) -> Result<Self, String> {
        let json = read(file)?;
        json.get(0).and_then(Self::parse).ok_or_else(|| format!("{file}: not what make_goldens.py writes"))
    }

    /// Whether the golden is for the model with these bytes.
    ///
    /// # Errors
    /// That it is not, and what to do about it.
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
    Err(format!("{model}: the golden is for other bytes than these; tools/make_goldens.py makes it anew"))
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

    /// Compares all logits of each row with the golden ones: `rows` are those of the prompt and, after it, of `greedy`'s
    /// tokens, whether they were found or given. The last rows may be left out.
    ///
    /// Returns the largest difference as a share of what is allowed.
    ///
    /// # Errors
    /// The first row that differs, a row that is not there, or that none was to be compared.
    pub fn check(&self, rows: &[Vec<f32>], tolerance: Tolerance) -> Result<f64, String> {
        let prompt_rows = self.top.len() - self.greedy.len();
        if rows.len() > self.top.len() {
            return Err(format!("{} rows of logits, but the golden has {}", rows.len(), self.top.len()));
        }
        let mut worst = 0.0_f64;
        let mut compared = 0;
        for (i, row) in rows.iter().enumerate() {
            // Margins never grow: what follows cannot be compared either.
            if self.margin[i].is_some_and(|margin| margin < tolerance.margin_min) {
                break;
            }
            let allowed = tolerance.factor * self.max_abs[i].max(10.0);
            for &(id, expected) in &self.top[i] {
                let found = row.get(id as usize).copied().ok_or_else(|| format!("row {i} has no token {id}"))?;
                let share = (f64::from(found) - expected).abs() / allowed;
                // Also when it is not a number.
                if !matches!(share.partial_cmp(&1.0), Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal)) {
                    return Err(format!("row {i}, token {id}: {found}, expected {expected} within {allowed:.2e}"));
                }
                worst = worst.max(share);
            }
            if let Some(&next) = (i + 1).checked_sub(prompt_rows).and_then(|n| self.greedy.get(n)) {
                let found = argmax(row);
                if found != Some(next) {
                    return Err(format!("row {i}: token {found:?} is the likeliest, expected {next}"));
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

/// The index of the largest logit, the first of equal ones.
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

/// The 64-bit FNV-1a hash.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}
