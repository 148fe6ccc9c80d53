//! The options of replies, from keyword arguments.

use ferrum_wgpu::{ChatBuilder, Grammar, RenderOptions, SamplingOptions};
use pyo3::{
    exceptions::{PyTypeError, PyValueError},
    prelude::*,
    types::{PyDict, PyString},
};

use crate::json;

/// The options of a reply.
#[derive(Debug)]
pub struct ReplyOptions {
    sampling: SamplingOptions,
    max_tokens: Option<u32>,
    stop: Vec<String>,
    render: RenderOptions,
    /// What constrains the reply.
    pub grammar: Option<Grammar>,
}

impl ReplyOptions {
    /// Reads keyword arguments; those that are None are not given. `templates`: those of the chat template are allowed.
    ///
    /// # Errors
    /// TypeError for an unknown name or a wrong type, ValueError for a value out of range.
    pub fn new(default: &SamplingOptions, given: Option<&Bound<'_, PyDict>>, templates: bool) -> PyResult<Self> {
        let mut options = Self {
            sampling: default.clone(),
            max_tokens: None,
            stop: Vec::new(),
            render: RenderOptions::default(),
            grammar: None,
        };
        for (name, value) in given.into_iter().flatten() {
            let name: String = name.extract()?;
            if !value.is_none() {
                options.set(&name, &value, templates).map_err(|error| named(value.py(), &name, error))?;
            }
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &Bound<'_, PyAny>, templates: bool) -> PyResult<()> {
        let sampling = &mut self.sampling;
        match name {
            "temperature" => sampling.temperature = value.extract()?,
            "top_k" => sampling.top_k = value.extract()?,
            "top_p" => sampling.top_p = value.extract()?,
            "min_p" => sampling.min_p = value.extract()?,
            "xtc_probability" => sampling.xtc_probability = value.extract()?,
            "xtc_threshold" => sampling.xtc_threshold = value.extract()?,
            "mirostat" => sampling.mirostat = value.extract()?,
            "mirostat_tau" => sampling.mirostat_tau = value.extract()?,
            "mirostat_eta" => sampling.mirostat_eta = value.extract()?,
            "repetition_penalty" => sampling.repetition_penalty = value.extract()?,
            "presence_penalty" => sampling.presence_penalty = value.extract()?,
            "frequency_penalty" => sampling.frequency_penalty = value.extract()?,
            "logit_bias" => {
                let biases = value.cast::<PyDict>()?;
                sampling.logit_bias =
                    biases.iter().map(|(id, bias)| Ok((id.extract()?, bias.extract()?))).collect::<PyResult<_>>()?;
            }
            "seed" => sampling.seed = value.extract()?,
            "max_tokens" => self.max_tokens = Some(value.extract()?),
            "stop" => {
                self.stop = match value.cast::<PyString>() {
                    Ok(one) => vec![one.extract()?],
                    Err(_) => value.extract()?,
                };
            }
            "json_schema" => self.constrain(Grammar::JsonSchema(json::text(value)?))?,
            "regex" => self.constrain(Grammar::Regex(value.extract()?))?,
            "grammar" => self.constrain(Grammar::Grammar(value.extract()?))?,
            "thinking" if templates => self.render.enable_thinking = Some(value.extract()?),
            "tools" if templates => self.render.tools = Some(json::checked(value)?),
            "documents" if templates => self.render.documents = Some(json::checked(value)?),
            "template_variables" if templates => {
                for (name, value) in value.cast::<PyDict>()? {
                    self.render.variables.push((name.extract()?, json::checked(&value)?));
                }
            }
            _ => return Err(PyTypeError::new_err("it is no option")),
        }
        Ok(())
    }

    fn constrain(&mut self, grammar: Grammar) -> PyResult<()> {
        match self.grammar.replace(grammar) {
            None => Ok(()),
            Some(_) => Err(PyValueError::new_err("a reply has one of json_schema, regex and grammar")),
        }
    }

    /// Reads the options of a chat template alone.
    ///
    /// # Errors
    /// Those of [`ReplyOptions::new`].
    pub fn render(given: Option<&Bound<'_, PyDict>>) -> PyResult<RenderOptions> {
        const NAMES: [&str; 4] = ["thinking", "tools", "documents", "template_variables"];
        for name in given.into_iter().flat_map(|given| given.keys()) {
            let name: String = name.extract()?;
            if !NAMES.contains(&name.as_str()) {
                return Err(PyTypeError::new_err(format!("{name}: it is no option of a template")));
            }
        }
        Ok(Self::new(&SamplingOptions::default(), given, true)?.render)
    }

    /// Checks the values against the vocabulary.
    pub fn check(&self, vocab: u32) -> Result<(), ferrum_wgpu::EngineError> {
        self.sampling.check(vocab)
    }

    /// Returns a builder of conversations with these options.
    pub fn builder(&self) -> ChatBuilder {
        let mut builder = ferrum_wgpu::Chat::builder()
            .sampling(self.sampling.clone())
            .stop(self.stop.clone())
            .render(self.render.clone());
        if let Some(tokens) = self.max_tokens {
            builder = builder.max_tokens(tokens);
        }
        builder
    }
}

/// Returns an exception whose message begins with an option's name.
fn named(py: Python<'_>, name: &str, error: PyErr) -> PyErr {
    let text = format!("{name}: {}", error.value(py));
    if error.is_instance_of::<PyTypeError>(py) {
        PyTypeError::new_err(text)
    } else if error.is_instance_of::<PyValueError>(py) || error.is_instance_of::<pyo3::exceptions::PyOverflowError>(py)
    {
        PyValueError::new_err(text)
    } else {
        error
    }
}
