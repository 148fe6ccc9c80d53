// Prepares a row for the delta rule: convolution, SiLU and L2 norm of some heads, HEAD_LANES invocations each with four
// channels; in the last workgroup of a row the gates.
var<workgroup> conv_squares: array<f32, WG>;
var<workgroup> conv_eighths: array<f32, WG / 4u>;

fn conv_channel(row: u32, first: u32, slot: u32, channel: u32) -> f32 {
    let inputs = vec4<f32>(
        window_input(row, first, slot, 3u, channel), window_input(row, first, slot, 2u, channel),
        window_input(row, first, slot, 1u, channel), window_input(row, first, slot, 0u, channel),
    );
    let to = rows[row].w;
    if ONE_ROW && to < p.slots {
        let at = to * 3u * delta_channels() + channel;
        windows[at] = inputs.y;
        windows[at + delta_channels()] = inputs.z;
        windows[at + 2u * delta_channels()] = inputs.w;
    }
    return silu(dot(w[channel], inputs));
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let row = tile.y;
    let heads = 2u * p.key_heads + p.value_heads;
    let y_row = row * ((delta_channels() + 2u * p.value_heads + 3u) / 4u * 4u);
    if tile.x * (WG / HEAD_LANES) >= heads {
        let x_row = row * p.x_stride;
        for (var head = invocation; head < p.value_heads; head += WG) {
            let gate = delta_gates(
                x[x_row + p.alpha_offset + head], x[x_row + p.beta_offset + head], gates[head], gates[p.value_heads + head],
            );
            y[y_row + delta_channels() + 2u * head] = gate.x;
            y[y_row + delta_channels() + 2u * head + 1u] = gate.y;
        }
        return;
    }
    let lane = invocation % HEAD_LANES;
    let head = tile.x * (WG / HEAD_LANES) + invocation / HEAD_LANES;
    let inside = head < heads && 4u * lane < p.head_dim;
    let first = min(rows[row].x, row);
    let slot = rows[row].z;
    let channel = head * p.head_dim + 4u * lane;
    var c = vec4<f32>(0.0);
    if inside {
        c = vec4<f32>(
            conv_channel(row, first, slot, channel), conv_channel(row, first, slot, channel + 1u),
            conv_channel(row, first, slot, channel + 2u), conv_channel(row, first, slot, channel + 3u),
        );
    }
    // A sum over the lanes of a head, by eights.
    conv_squares[invocation] = dot(c, c);
    workgroupBarrier();
    let group = invocation / HEAD_LANES;
    if lane < 8u {
        let at = group * HEAD_LANES + lane;
        conv_eighths[group * 8u + lane] =
            (conv_squares[at] + conv_squares[at + 8u]) + (conv_squares[at + 16u] + conv_squares[at + 24u]);
    }
    workgroupBarrier();
    if inside {
        if head < 2u * p.key_heads {
            let at = group * 8u;
            let squares = ((conv_eighths[at] + conv_eighths[at + 1u]) + (conv_eighths[at + 2u] + conv_eighths[at + 3u]))
                + ((conv_eighths[at + 4u] + conv_eighths[at + 5u]) + (conv_eighths[at + 6u] + conv_eighths[at + 7u]));
            let scale = select(1.0, 1.0 / sqrt(f32(p.head_dim)), head < p.key_heads);
            c *= scale / sqrt(squares + p.eps);
        }
        y[y_row + channel] = c.x;
        y[y_row + channel + 1u] = c.y;
        y[y_row + channel + 2u] = c.z;
        y[y_row + channel + 3u] = c.w;
    }
}
