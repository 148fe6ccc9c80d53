//! The engine: a model on a device.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use ferrum_wgpu::{
    Adapter, ChatTemplate, Device, EngineError, EngineOptions, Error, Gguf, GrammarCompiler, Message, RenderOptions,
    Tokenizer, api::Service,
};
use pyo3::{exceptions::PyValueError, prelude::*, types::PyDict};

use crate::{
    chat::Chat,
    errors::{exception, of_grammar},
    json, openai,
    options::ReplyOptions,
    reply::Reply,
    wait::wait,
};

/// A model on a device, which computes any number of conversations and texts at once, in common batches.
///
/// Args:
///     path: A GGUF file; of a split model, the first part.
///     device: The index or a part of the name of a device, as devices() lists them; "cpu" for reference kernels on the
///         CPU. Default: the first.
///     context: The most tokens of a sequence. Default: the model's, 4,096 at most.
///     sequences: How many sequences are computed at once; more wait.
///     kv_tokens: The most tokens of all sequences together. Default: context.
///     kv_type: "f16" or "f32". Default: f16 where the device supports it.
///     precision: "exact" or "fast".
///     memory_budget: The device memory to use in bytes. Experts that do not fit are loaded from the file on demand.
///         Default: what the device has free.
#[pyclass(frozen, module = "ferrum_wgpu")]
#[derive(Debug)]
pub struct Engine {
    engine: ferrum_wgpu::Engine,
    gguf: Gguf,
    service: Service,
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    sampling: ferrum_wgpu::SamplingOptions,
    device: Option<String>,
    device_name: String,
    grammars: OnceLock<Arc<GrammarCompiler>>,
}

/// Opens a device. Returns it with its memory budget.
async fn open_device(wanted: Option<&str>) -> Result<(Device, Option<u64>), Error> {
    if wanted == Some("cpu") {
        return Ok((Device::cpu(), None));
    }
    let adapter = Adapter::find(wanted).await?;
    Ok((Device::new(&adapter).await?, adapter.memory_budget()))
}

impl Engine {
    async fn open(
        path: PathBuf,
        device: Option<String>,
        options: EngineOptions,
        budget: Option<u64>,
    ) -> Result<Self, Error> {
        let gguf = Gguf::open(&path)?;
        let (opened, free) = open_device(device.as_deref()).await?;
        let device_name = opened.name().to_owned();
        let mut builder = ferrum_wgpu::Chat::builder().device(opened).engine(options);
        if let Some(bytes) = budget.or(free) {
            builder = builder.memory_budget(bytes);
        }
        let engine = builder.load(&gguf).await?.engine().clone();
        let template = match ChatTemplate::from_metadata(gguf.metadata()) {
            Err(ferrum_wgpu::TextError::NoTemplate) => ChatTemplate::chatml(),
            template => template?,
        };
        let name = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let service = Service::new(&engine, &gguf, name)?;
        Ok(Self {
            tokenizer: Arc::new(Tokenizer::from_gguf(&gguf)?),
            sampling: ferrum_wgpu::SamplingOptions::from_metadata(gguf.metadata())?,
            template,
            service,
            engine,
            gguf,
            device,
            device_name,
            grammars: OnceLock::new(),
        })
    }

    /// Returns a conversation with these options. Without a template, its messages are prompts.
    fn conversation(
        &self,
        py: Python<'_>,
        system: Option<String>,
        options: &ReplyOptions,
        template: Option<ChatTemplate>,
    ) -> PyResult<ferrum_wgpu::Chat> {
        options.check(self.engine.config().vocab).map_err(exception)?;
        let mut builder = options.builder();
        if let Some(system) = system {
            builder = builder.system(system);
        }
        let mut chat = builder.assemble(&self.engine, Arc::clone(&self.tokenizer), template);
        if let Some(grammar) = options.grammar.clone() {
            let compiler = py.detach(|| {
                let compiler = match self.grammars.get() {
                    Some(compiler) => Arc::clone(compiler),
                    None => {
                        let made = Arc::new(GrammarCompiler::new(&self.tokenizer)?);
                        Arc::clone(self.grammars.get_or_init(|| made))
                    }
                };
                // An invalid grammar is refused before a reply is asked for.
                compiler.compile(&grammar).map(|_| compiler)
            });
            let compiler = compiler.map_err(|error| of_grammar(&error))?;
            chat.set_constraint(Some(Box::new(move || {
                compiler.compile(&grammar).map_err(|error| EngineError::Constraint(error.to_string()))
            })));
        }
        Ok(chat)
    }
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (path, *, device=None, context=None, sequences=1, kv_tokens=None, kv_type=None, precision=None, memory_budget=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        device: Option<Bound<'_, PyAny>>,
        context: Option<u32>,
        sequences: u32,
        kv_tokens: Option<u32>,
        kv_type: Option<&str>,
        precision: Option<&str>,
        memory_budget: Option<u64>,
    ) -> PyResult<Self> {
        let value_error = |error: ferrum_wgpu::UnknownName| PyValueError::new_err(error.to_string());
        let mut options = EngineOptions::default().sequences(sequences);
        options.context = context;
        options.kv_tokens = kv_tokens;
        options.kv_type = kv_type.map(str::parse).transpose().map_err(value_error)?;
        if let Some(precision) = precision {
            options = options.precision(precision.parse().map_err(value_error)?);
        }
        // An index or a name.
        let device = device.map(|device| device.str().map(|text| text.to_string())).transpose()?;
        wait(py, Self::open(path, device, options, memory_budget))?.map_err(exception)
    }

    /// Start a conversation. Options are those of ReplyOptions and, for the chat template, of TemplateOptions.
    #[pyo3(signature = (*, system=None, messages=None, **options))]
    fn chat(
        &self,
        py: Python<'_>,
        system: Option<String>,
        messages: Option<Bound<'_, PyAny>>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Chat> {
        let options = ReplyOptions::new(&self.sampling, options, true)?;
        let mut chat = self.conversation(py, system, &options, Some(self.template.clone()))?;
        if let Some(messages) = messages {
            let before: Vec<Message> = chat.messages();
            chat.set_messages(before.into_iter().chain(json::messages(&messages)?).collect());
        }
        Ok(Chat::new(chat))
    }

    /// Continue a text. No chat template is applied; names of control tokens are parsed. Options are those of
    /// ReplyOptions.
    #[pyo3(signature = (prompt, **options))]
    fn generate(&self, py: Python<'_>, prompt: String, options: Option<&Bound<'_, PyDict>>) -> PyResult<Reply> {
        let options = ReplyOptions::new(&self.sampling, options, false)?;
        let mut chat = self.conversation(py, None, &options, None)?;
        Ok(py.detach(|| Reply::new(chat.say(prompt))))
    }

    /// Compute a request of OpenAI's /v1/chat/completions without a server. The fields are those of the server's API.
    /// With stream=True the result is an iterator of chunks.
    #[pyo3(signature = (**request))]
    fn chat_completion<'py>(
        &self,
        py: Python<'py>,
        request: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        openai::chat_completion(py, &self.service, request)
    }

    /// Render messages with the model's chat template.
    #[pyo3(signature = (messages, *, add_generation_prompt=true, **options))]
    fn render(
        &self,
        messages: &Bound<'_, PyAny>,
        add_generation_prompt: bool,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<String> {
        let render: RenderOptions = ReplyOptions::render(options)?.add_generation_prompt(add_generation_prompt);
        self.template.render(&json::messages(messages)?, &render).map_err(exception)
    }

    /// Return the tokens of a text.
    ///
    /// Args:
    ///     add_special: Prepend the beginning-of-text token if the model requires it.
    ///     parse_special: Parse the names of control tokens.
    #[pyo3(signature = (text, *, add_special=false, parse_special=true))]
    fn tokenize(&self, py: Python<'_>, text: &str, add_special: bool, parse_special: bool) -> PyResult<Vec<u32>> {
        let encode = || {
            let mut ids = self.tokenizer.encode(text, parse_special)?;
            if add_special {
                let begin = self.tokenizer.encode_prompt("")?;
                if !ids.starts_with(&begin) {
                    ids.splice(0..0, begin);
                }
            }
            Ok::<_, ferrum_wgpu::TextError>(ids)
        };
        py.detach(encode).map_err(exception)
    }

    /// Return the text of tokens, without control tokens.
    fn detokenize(&self, tokens: Vec<u32>) -> PyResult<String> {
        self.tokenizer.decode(&tokens).map_err(exception)
    }

    /// Compute the logits of the token that follows.
    fn logits(&self, py: Python<'_>, tokens: Vec<u32>) -> PyResult<Vec<f32>> {
        let mut session = self.engine.session();
        wait(py, session.forward(&tokens))?.map_err(exception)
    }

    /// Compile all kernels, so that the first reply does not wait for them.
    fn warm_up(&self, py: Python<'_>) -> PyResult<()> {
        wait(py, self.engine.warm_up())?.map_err(exception)
    }

    /// Open the device again and load the model to it, after DeviceLostError. Requests in progress fail.
    fn recover(&self, py: Python<'_>) -> PyResult<()> {
        let recover = async {
            let (device, _) = open_device(self.device.as_deref()).await?;
            Ok::<_, Error>(self.engine.recover(&device, &self.gguf).await?)
        };
        wait(py, recover)?.map_err(exception)
    }

    /// The most tokens of a sequence.
    #[getter]
    fn context(&self) -> u32 {
        self.engine.context()
    }

    /// The number of tokens of the vocabulary.
    #[getter]
    fn vocab_size(&self) -> u32 {
        self.engine.config().vocab
    }

    /// The model's architecture, such as "qwen3moe".
    #[getter]
    fn architecture(&self) -> String {
        self.gguf.metadata().str("general.architecture").ok().flatten().unwrap_or_default().to_owned()
    }

    /// The device's name.
    #[getter]
    fn device(&self) -> &str {
        &self.device_name
    }

    /// The blocks of the KV cache: all, and those that no sequence holds.
    #[getter]
    fn kv_blocks(&self) -> (u32, u32) {
        let blocks = self.engine.blocks();
        (blocks.total, blocks.free)
    }

    /// The source of the model's chat template.
    #[getter]
    fn chat_template(&self) -> &str {
        self.template.source()
    }

    fn __repr__(&self) -> String {
        format!("Engine({:?}, device={:?}, context={})", self.service.name(), self.device_name, self.engine.context())
    }
}
