//! A minimal plan with a visible effect: `y += 1`.

use ferrum_wgpu::low_level::{
    gpu::{Buffer, Plan, Recorder},
    kernels::elementwise::add_rows::{AddRows, Binds, Params},
};

/// The number of elements.
pub const N: u32 = 1000;

/// `y[i] += ones[i]` for all `N` elements.
pub fn count_up(y: &Buffer<f32>, ones: &Buffer<f32>) -> Plan {
    count_up_often(y, ones, 1)
}

/// `y[i] += ones[i]`, by `times` workgroups at once. They race, so the result is not defined.
pub fn count_up_often(y: &Buffer<f32>, ones: &Buffer<f32>, times: u32) -> Plan {
    let mut rec = Recorder::new();
    let params = Params { rows: times, n: N, x_stride: 0, x_offset: 0, y_stride: 0, y_offset: 0, factor: 1.0 };
    rec.dispatch(AddRows, (), params, Binds { x: ones, y }).expect("distinct buffers");
    rec.finish()
}
