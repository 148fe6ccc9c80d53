//! A loaded model with its engine.

use std::{
    cell::RefCell,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, SystemTime},
};

use ferrum_wgpu::{
    Adapter, Device, DeviceCheck, Engine, EngineOptions, Model,
    api::{ApiError, RequestContext, Response, Service},
    low_level::model::PlannedKernel,
};
use js_sys::{Date, Function, Math};
use serde_json::{Value, json};
use wasm_bindgen::prelude::*;

use crate::{
    error,
    reply::Reply,
    source::{Files, Source},
};

/// A device for a model.
#[wasm_bindgen]
pub struct ModelDevice {
    device: RefCell<Device>,
    /// The kernels of the last plan.
    planned: RefCell<Vec<PlannedKernel>>,
    options: LoadOptions,
}

#[wasm_bindgen]
impl ModelDevice {
    /// Opens the device that `options` name, a JSON object as for [`LoadedModel::load`].
    ///
    /// # Errors
    /// An error of the device or of the options.
    pub async fn open(options: &str) -> Result<ModelDevice, JsValue> {
        let options = LoadOptions::parse(options)?;
        Ok(Self { device: RefCell::new(options.open_device().await?), planned: RefCell::default(), options })
    }

    /// Returns whether kernels use subgroup operations.
    #[wasm_bindgen(getter)]
    pub fn subgroups(&self) -> bool {
        self.device.borrow().caps().subgroups
    }

    /// Replaces the device by one without subgroup operations.
    ///
    /// # Errors
    /// An error of the device.
    #[wasm_bindgen(js_name = leaveOutSubgroups)]
    pub async fn leave_out_subgroups(&self) -> Result<(), JsValue> {
        let device = open_gpu(false).await?;
        *self.device.borrow_mut() = device;
        Ok(())
    }

    /// Plans the kernels that a model needs on it, of which it reads the headers only. Returns a JSON object: `all`, their number;
    /// `first`, those of a first reply, which come first; `key`, of the device and the kernels. A check's result is valid for
    /// one key and one version of the browser.
    ///
    /// # Errors
    /// An error of the files, of the device or of the options.
    pub async fn plan(&self, sources: Vec<Source>) -> Result<String, JsValue> {
        let device = self.device.borrow().clone();
        let files = Files::open(sources).await?;
        let planned = Engine::planned_kernels(&device, &files.gguf, &self.options.engine).await;
        let planned = planned.map_err(|error| files.error(error))?;
        let mut hasher = DefaultHasher::new();
        for kernel in &planned.kernels {
            (kernel.kernel, &kernel.variant).hash(&mut hasher);
        }
        let key = format!("{}; subgroups {}; {:016x}", device.fingerprint(), device.caps().subgroups, hasher.finish());
        let plan = json!({"key": key, "first": planned.first, "all": planned.kernels.len()});
        *self.planned.borrow_mut() = planned.kernels;
        Ok(plan.to_string())
    }

    /// Runs a few cases of the planned kernels from number `begin` to `end`, and compares them with references. `told` is called
    /// with the number of kernels that were run, and of all of them. Returns a JSON object.
    ///
    /// # Errors
    /// An error of the device. Wrong results are part of the result.
    pub async fn check(&self, begin: usize, end: usize, told: Function) -> Result<String, JsValue> {
        let device = self.device.borrow().clone();
        let (kernels, planned) = {
            let planned = self.planned.borrow();
            (planned.get(begin..end.min(planned.len())).unwrap_or_default().to_vec(), planned.len())
        };
        let progress = |done: usize, all: usize| tell(&told, done as f64, all as f64);
        let check = DeviceCheck::run_kernels(&device, &kernels, progress).await.map_err(error::of)?;
        let wrong: Vec<_> = check
            .wrong
            .iter()
            .map(|wrong| json!({"kernel": wrong.kernel, "variant": wrong.variant, "case": wrong.case, "message": wrong.to_string()}))
            .collect();
        Ok(json!({
            "device": device.name(), "subgroups": device.caps().subgroups, "kernels": check.kernels, "planned": planned,
            "cases": check.cases, "passed": check.passed(), "wrong": wrong,
        })
        .to_string())
    }

    /// Compiles the kernels of a model, of which it reads the headers only: those of a first reply, or all. `told` is called with
    /// the number of kernels compiled so far, and of all that were missing.
    ///
    /// # Errors
    /// An error of the files, of the device or of the options.
    pub async fn compile(&self, sources: Vec<Source>, first: bool, told: Function) -> Result<(), JsValue> {
        let device = self.device.borrow().clone();
        let files = Files::open(sources).await?;
        let progress = |done: usize, all: usize| tell(&told, done as f64, all as f64);
        let compiled = if first {
            Engine::precompile_first(&device, &files.gguf, &self.options.engine, progress).await
        } else {
            Engine::precompile_with(&device, &files.gguf, &self.options.engine, progress).await
        };
        compiled.map_err(|error| files.error(error))
    }
}

/// Calls a function with what is done and with all of it.
fn tell(told: &Function, done: f64, all: f64) {
    // A callback that fails does not stop the work.
    let _ = told.call2(&JsValue::NULL, &done.into(), &all.into());
}

/// A model on the browser's GPU, which answers requests.
#[wasm_bindgen]
pub struct LoadedModel {
    device: RefCell<Device>,
    engine: Engine,
    service: Service,
    files: Files,
}

#[wasm_bindgen]
impl LoadedModel {
    /// Loads a model on a device. `options` is a JSON object: `context`, `sequences`, `name`, `device` (`"gpu"` or `"cpu"`),
    /// `subgroups` (`false` leaves them out).
    /// `told` is called with the bytes that were sent to the device, and all of them.
    ///
    /// # Errors
    /// An error of the file, of the device or of the options.
    pub async fn load(
        device: &ModelDevice,
        sources: Vec<Source>,
        options: &str,
        told: Function,
    ) -> Result<LoadedModel, JsValue> {
        let options = LoadOptions::parse(options)?;
        let device = device.device.borrow().clone();
        let files = Files::open(sources).await?;
        let upload = |sent: u64, total: u64| tell(&told, sent as f64, total as f64);
        let model = Model::load(&device, &files.gguf, upload).await.map_err(|error| files.error(error))?;
        let engine = Engine::new(&model, &options.engine).await.map_err(error::of)?;
        let service = Service::new(&engine, &files.gguf, options.name).map_err(error::of)?;
        Ok(Self { device: RefCell::new(device), engine, service, files })
    }

    /// Starts the response to a request of `/v1/chat/completions`.
    ///
    /// # Errors
    /// The error of an invalid request.
    pub fn chat(&self, request: &str) -> Result<Reply, JsValue> {
        self.start(request, Service::chat)
    }

    /// Starts the response to a request of `/v1/completions`.
    ///
    /// # Errors
    /// The error of an invalid request.
    pub fn completion(&self, request: &str) -> Result<Reply, JsValue> {
        self.start(request, Service::completion)
    }

    /// Returns the response to a request of `/v1/embeddings`.
    ///
    /// # Errors
    /// The error of the request.
    pub async fn embeddings(&self, request: &str) -> Result<String, JsValue> {
        let started = self.service.embeddings(parsed(request)?).map_err(|error| error::of_request(&error))?;
        let response = started.whole().await.map_err(|error| error::of_request(&error))?;
        Ok(response.to_string())
    }

    /// Returns the response to a request of `/tokenize`.
    ///
    /// # Errors
    /// The error of an invalid request.
    pub fn tokenize(&self, request: &str) -> Result<String, JsValue> {
        let response = self.service.tokenize(parsed(request)?).map_err(|error| error::of_request(&error))?;
        Ok(response.to_string())
    }

    /// Returns the response to a request of `/detokenize`.
    ///
    /// # Errors
    /// The error of an invalid request.
    pub fn detokenize(&self, request: &str) -> Result<String, JsValue> {
        let response = self.service.detokenize(parsed(request)?).map_err(|error| error::of_request(&error))?;
        Ok(response.to_string())
    }

    /// Returns what it is and uses, as a JSON object.
    pub fn stats(&self) -> String {
        let blocks = self.engine.blocks();
        let device = self.device.borrow();
        let config = self.engine.config();
        json!({
            "model": self.service.name(),
            "architecture": config.architecture.name(),
            "layers": config.layers,
            "vocabulary": config.vocab,
            "context": self.engine.context(),
            "fileBytes": self.files.gguf.file_len(),
            "device": {"name": device.name(), "software": device.is_software(), "fingerprint": device.fingerprint(),
                "subgroups": device.caps().subgroups},
            "kvBlocks": {"total": blocks.total, "free": blocks.free},
            "requests": self.engine.requests(),
            "wasmBytes": crate::memory_bytes(),
        })
        .to_string()
    }

    /// Continues on a new device after the first was lost.
    ///
    /// # Errors
    /// An error of the device or of the file.
    pub async fn recover(&self) -> Result<(), JsValue> {
        let subgroups = self.device.borrow().caps().subgroups;
        let device = open_gpu(subgroups).await?;
        self.engine.recover(&device, &self.files.gguf).await.map_err(|error| self.files.error(error))?;
        *self.device.borrow_mut() = device;
        Ok(())
    }

    fn start(
        &self,
        request: &str,
        respond: fn(&Service, Value, &RequestContext) -> Result<Response, ApiError>,
    ) -> Result<Reply, JsValue> {
        let response =
            respond(&self.service, parsed(request)?, &context()).map_err(|error| error::of_request(&error))?;
        Ok(Reply::new(response))
    }
}

/// The options of a load.
pub struct LoadOptions {
    pub engine: EngineOptions,
    name: String,
    cpu: bool,
    subgroups: bool,
}

impl LoadOptions {
    /// Reads the options' JSON object.
    pub fn parse(text: &str) -> Result<Self, JsValue> {
        let value: Value = serde_json::from_str(text).map_err(|error| error::coded("option", &error.to_string()))?;
        let number = |name: &str| match &value[name] {
            Value::Null => Ok(None),
            number => match number.as_u64().and_then(|number| u32::try_from(number).ok()) {
                Some(number) if number > 0 => Ok(Some(number)),
                _ => Err(error::coded("option", &format!("{name} must be a positive whole number"))),
            },
        };
        let mut engine = EngineOptions::default().context(number("context")?);
        if let Some(sequences) = number("sequences")? {
            engine = engine.sequences(sequences);
        }
        let cpu = match value["device"].as_str() {
            None | Some("gpu") => false,
            Some("cpu") => true,
            Some(_) => return Err(error::coded("option", "device must be \"gpu\" or \"cpu\"")),
        };
        Ok(Self {
            engine,
            name: value["name"].as_str().unwrap_or("model").to_owned(),
            cpu,
            subgroups: value["subgroups"] != false,
        })
    }

    async fn open_device(&self) -> Result<Device, JsValue> {
        if self.cpu { Ok(Device::cpu()) } else { open_gpu(self.subgroups).await }
    }
}

async fn open_gpu(subgroups: bool) -> Result<Device, JsValue> {
    let adapter = Adapter::find(None).await.map_err(error::of)?;
    let mut caps = adapter.caps();
    if !subgroups {
        // The kernels for software drivers use them.
        (caps.subgroups, caps.software_subgroup_8) = (false, false);
    }
    Device::masked(&adapter, &caps).await.map_err(error::of)
}

fn parsed(request: &str) -> Result<Value, JsValue> {
    serde_json::from_str(request).map_err(|error| error::of_request(&ApiError::new(400, error.to_string())))
}

/// Returns what the browser knows about a request: the time, and random numbers.
fn context() -> RequestContext {
    let milliseconds = Date::now();
    let random = || (Math::random() * f64::from(u32::MAX)) as u32;
    let long = || u64::from(random()) << 32 | u64::from(random());
    let offset = -60.0 * Date::new_0().get_timezone_offset();
    RequestContext {
        id: u128::from(long()) << 64 | u128::from(long()),
        created: (milliseconds / 1e3) as u64,
        seed: long(),
        now: Some((SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds as u64), offset as i32)),
    }
}
