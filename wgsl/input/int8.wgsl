// A unit's activations as int8: codes a run of 16 in a vec4, and scales of blocks of 32, of rows that start at `row` vec4s.
fn in_unit(row: u32, unit: u32) -> QInput {
    let runs = vec2<u32>(row << 4u) + q_runs(unit);
    let codes = QCodes(x[runs.x >> 4u], x[runs.y >> 4u]);
    let scale = vec2<f32>(scales[runs.x >> 5u], scales[runs.y >> 5u]);
    let ones = vec4<u32>(0x01010101u);
    return QInput(codes, scale, scale * vec2<f32>(q_dot_run(codes.lo, ones), q_dot_run(codes.hi, ones)));
}
