//! What a browser tells beside wgpu: its adapter's properties, and timers.

use std::{
    future::Future,
    hash::{DefaultHasher, Hash, Hasher},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_channel::oneshot;
use js_sys::{Function, Promise, Reflect};
use wasm_bindgen::{JsCast, JsValue, closure::Closure};
use wasm_bindgen_futures::JsFuture;

/// Adds to what wgpu knows of a browser's adapter: its vendor and architecture as name and driver, since browsers leave the
/// description empty, and a hash of features and limits, so that fingerprints tell GPUs apart.
pub(super) async fn describe(adapter: &wgpu::Adapter, info: &mut wgpu::AdapterInfo) {
    let parts = parts().await.unwrap_or_default();
    let known = parts.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join(" ");
    if info.name.is_empty() {
        info.name = if known.is_empty() { "WebGPU adapter".to_owned() } else { known.clone() };
    }
    let mut hasher = DefaultHasher::new();
    format!("{:?} {:?}", adapter.features(), adapter.limits()).hash(&mut hasher);
    info.driver = known;
    info.driver_info = format!("{:016x}", hasher.finish());
}

/// Returns vendor, architecture and device of the default adapter.
async fn parts() -> Option<[String; 3]> {
    let gpu = get(&get(&js_sys::global(), "navigator")?, "gpu")?;
    let request: Function = get(&gpu, "requestAdapter")?.dyn_into().ok()?;
    let promise: Promise = request.call0(&gpu).ok()?.dyn_into().ok()?;
    let adapter = JsFuture::from(promise).await.ok()?;
    let info = get(&adapter, "info")?;
    Some(
        ["vendor", "architecture", "device"]
            .map(|name| get(&info, name).and_then(|v| v.as_string()).unwrap_or_default()),
    )
}

fn get(object: &JsValue, name: &str) -> Option<JsValue> {
    Reflect::get(object, &name.into()).ok().filter(|value| !value.is_undefined() && !value.is_null())
}

fn call(name: &str, arguments: &[&JsValue]) -> Option<JsValue> {
    let function: Function = get(&js_sys::global(), name)?.dyn_into().ok()?;
    let arguments: js_sys::Array = arguments.iter().map(|argument| (*argument).clone()).collect();
    function.apply(&JsValue::UNDEFINED, &arguments).ok()
}

/// A pause. It ends at once where there are no timers.
pub(super) struct Sleep {
    timer: Option<JsValue>,
    ended: oneshot::Receiver<()>,
    _callback: Closure<dyn FnMut()>,
}

/// Starts a pause.
pub(super) fn sleep(time: Duration) -> Sleep {
    let (sender, ended) = oneshot::channel();
    let mut sender = Some(sender);
    let callback = Closure::new(move || {
        if let Some(sender) = sender.take() {
            let _ = sender.send(());
        }
    });
    let millis = JsValue::from_f64(time.as_millis() as f64);
    let timer = call("setTimeout", &[callback.as_ref(), &millis]);
    Sleep { timer, ended, _callback: callback }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.timer.is_none() {
            return Poll::Ready(());
        }
        Pin::new(&mut self.ended).poll(context).map(|_| ())
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = &self.timer {
            call("clearTimeout", &[timer]);
        }
    }
}
