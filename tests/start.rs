//! Starting: pipelines compiled before there are weights, and kept from one device to the next.

mod common;

use common::{engines::with_model, tiny_model::TinyModel};
