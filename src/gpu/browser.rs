//! What a browser tells beside wgpu: its adapter's properties, subgroups, and timers.

use std::{
    cell::RefCell,
    future::Future,
    hash::{DefaultHasher, Hash, Hasher},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use futures_channel::oneshot;
use js_sys::{Array, Function, Object, Promise, Proxy, Reflect};
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
    format!("{:?} {:?}", super::adapter::features_of(adapter), adapter.limits()).hash(&mut hasher);
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

/// The name of the feature in WebGPU.
const SUBGROUPS: &str = "subgroups";

/// Returns whether the browser's adapter has subgroup operations and the builtin values that kernels use. wgpu does not report
/// the feature.
pub(super) fn has_subgroups(adapter: &wgpu::Adapter) -> bool {
    let language = || get(&get(&get(&js_sys::global(), "navigator")?, "gpu")?, "wgslLanguageFeatures");
    // `subgroup_id` and `num_subgroups` came later than the feature.
    let builtins = language().is_some_and(|features| has(&features, "subgroup_id"));
    builtins
        && inner(adapter)
            .and_then(|adapter| get(&adapter, "features"))
            .is_some_and(|features| has(&features, SUBGROUPS))
}

/// Calls `request`, which requests a device of `adapter` through wgpu, and adds subgroups to the features that it requests.
/// wgpu does not pass the feature on. A request that fails to be changed remains as it was.
pub(super) fn with_subgroups<T>(adapter: &wgpu::Adapter, request: impl FnOnce() -> T) -> T {
    const METHOD: &str = "requestDevice";
    let Some((adapter, original)) =
        inner(adapter).and_then(|adapter| Some((adapter.clone(), get(&adapter, METHOD)?.dyn_into::<Function>().ok()?)))
    else {
        return request();
    };
    let this = adapter.clone();
    let changed = Closure::<dyn FnMut(JsValue) -> Result<JsValue, JsValue>>::new(move |descriptor: JsValue| {
        let wanted = get(&descriptor, "requiredFeatures").map(|features| Array::from(&features)).unwrap_or_default();
        if !wanted.includes(&SUBGROUPS.into(), 0) {
            wanted.push(&SUBGROUPS.into());
        }
        Reflect::set(&descriptor, &"requiredFeatures".into(), &wanted)?;
        original.call1(&this, &descriptor)
    });
    // A property of this adapter alone hides the method while wgpu calls it.
    let _ = Reflect::set(&adapter, &METHOD.into(), changed.as_ref());
    let result = request();
    let _ = Reflect::delete_property(adapter.unchecked_ref::<Object>(), &METHOD.into());
    result
}

/// Returns the browser's own object of an adapter. wgpu keeps it private, so a proxy of the getter of `features` takes it from
/// the call that wgpu makes.
fn inner(adapter: &wgpu::Adapter) -> Option<JsValue> {
    const GETTER: &str = "features";
    let prototype: Object = get(&get(&js_sys::global(), "GPUAdapter")?, "prototype")?.dyn_into().ok()?;
    let original: Object = Object::get_own_property_descriptor(&prototype, &GETTER.into()).dyn_into().ok()?;
    let getter = get(&original, "get")?;
    let found = Rc::new(RefCell::new(None));
    let seen = Rc::clone(&found);
    let apply = Closure::<dyn FnMut(Function, JsValue, Array) -> Result<JsValue, JsValue>>::new(
        move |getter: Function, this: JsValue, _arguments: Array| {
            *seen.borrow_mut() = Some(this.clone());
            getter.call0(&this)
        },
    );
    let handler = Object::new();
    Reflect::set(&handler, &"apply".into(), apply.as_ref()).ok()?;
    let replaced = Object::assign(&Object::new(), &original);
    Reflect::set(&replaced, &"get".into(), &Proxy::new(&getter, &handler)).ok()?;
    Reflect::define_property(&prototype, &GETTER.into(), &replaced).ok().filter(|defined| *defined)?;
    adapter.features();
    let _ = Reflect::define_property(&prototype, &GETTER.into(), &original);
    found.take()
}

/// Returns whether a set of the browser has a name.
fn has(set: &JsValue, name: &str) -> bool {
    let method = get(set, "has").and_then(|method| method.dyn_into::<Function>().ok());
    method.and_then(|method| method.call1(set, &name.into()).ok()).is_some_and(|found| found.is_truthy())
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
