// Samples from all tokens of a row, a workgroup per row, with the result of sorting them first. The kept tokens are a prefix of
// the sorted order, so that their mass (sum of weights) describes them. A radix search finds where a mass or a number of tokens
// is reached: in four passes, masses are summed by a digit of the keys, the highest digit first. Sums are integers in units of
// 2^-40, in two words, so that their order does not matter.
const DIGITS = 256u;

var<workgroup> number_of: array<atomic<u32>, DIGITS>;
var<workgroup> low_of: array<atomic<u32>, DIGITS>;
var<workgroup> high_of: array<atomic<u32>, DIGITS>;

var<workgroup> best: atomic<u32>;
// The state of a search: a key, and the number and the mass (low word first) of the tokens before it.
var<workgroup> key: u32;
var<workgroup> before: u32;
var<workgroup> before_mass: vec2<u32>;
// The mass of the kept tokens, and which of the tokens with equal keys is sampled.
var<workgroup> kept: f32;
// The mass of the first of them, which XTC drops.
var<workgroup> dropped: f32;
var<workgroup> tie: u32;

// Where the row's logits start, and its sequence's temperature.
var<private> start: u32;
var<private> temperature: f32;

fn all_key(i: u32) -> u32 {
    return order_key(logits[start + i]);
}

fn all_weight(of_key: u32) -> f32 {
    let largest = atomicLoad(&best);
    let below = max(order_logit(of_key) - order_logit(largest), -100.0 * temperature);
    return select(exp(below / temperature), 1.0, of_key == largest);
}

fn all_mass(words: vec2<u32>) -> f32 {
    return f32(words.y) * 0.00390625 + f32(words.x) * 9.094947017729282e-13;
}

fn all_add(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn all_count(digit: u32, weight: f32) {
    let high = u32(weight * 256.0);
    let low = u32((weight * 256.0 - f32(high)) * 4294967296.0);
    atomicAdd(&number_of[digit], 1u);
    let old = atomicAdd(&low_of[digit], low);
    atomicAdd(&high_of[digit], high + select(0u, 1u, old + low < old));
}

fn all_clear(invocation: u32) {
    atomicStore(&number_of[invocation], 0u);
    atomicStore(&low_of[invocation], 0u);
    atomicStore(&high_of[invocation], 0u);
    workgroupBarrier();
}

fn all_of(digit: u32) -> vec2<u32> {
    return vec2<u32>(atomicLoad(&low_of[digit]), atomicLoad(&high_of[digit]));
}

// Sums the mass of the tokens with at least this weight in digit 0.
fn all_above(least: f32, invocation: u32) {
    all_clear(invocation);
    for (var i = invocation; i < p.vocab; i += WG) {
        let weight = all_weight(all_key(i));
        if weight >= least {
            all_count(0u, weight);
        }
    }
    workgroupBarrier();
}

// Finds the key at which `most` tokens or `enough` mass are reached or, if `beyond`, passed.
fn all_search(most: u32, enough: f32, beyond: bool, invocation: u32) {
    if invocation == 0u {
        key = 0u;
        before = 0u;
        before_mass = vec2<u32>(0u);
    }
    for (var round = 0u; round < 4u; round += 1u) {
        let shift = 24u - 8u * round;
        all_clear(invocation);
        let same = select(0xffffff00u << shift, 0u, round == 0u);
        for (var i = invocation; i < p.vocab; i += WG) {
            let mine = all_key(i);
            if ((mine ^ key) & same) == 0u {
                all_count((mine >> shift) & 255u, all_weight(mine));
            }
        }
        workgroupBarrier();
        if invocation == 0u {
            var found = 0u;
            var tokens = 0u;
            var mass = vec2<u32>(0u);
            for (var digit = DIGITS; digit > 0u; digit -= 1u) {
                let there = atomicLoad(&number_of[digit - 1u]);
                if there > 0u {
                    before += tokens;
                    before_mass = all_add(before_mass, mass);
                    found = digit - 1u;
                    tokens = there;
                    mass = all_of(found);
                    let reached = all_mass(all_add(before_mass, mass));
                    if before + tokens >= most || reached > enough || (reached == enough && !beyond) {
                        break;
                    }
                }
            }
            key |= found << shift;
        }
        workgroupBarrier();
    }
}

fn all_cut(cut: vec4<f32>, invocation: u32) {
    if cut.y >= 1.0 && cut.y < f32(p.vocab) {
        let most = u32(cut.y);
        all_search(most, 1e30, false, invocation);
        if invocation == 0u {
            kept = all_mass(before_mass) + f32(most - before) * all_weight(key);
        }
    } else {
        all_above(0.0, invocation);
        if invocation == 0u {
            kept = all_mass(all_of(0u));
        }
    }
    workgroupBarrier();
    if cut.z < 1.0 {
        let enough = cut.z * kept;
        all_search(NO_TOKEN, enough, false, invocation);
        if invocation == 0u {
            let weight = all_weight(key);
            let mass = all_mass(before_mass);
            let ties = select(1.0, max(ceil((enough - mass) / weight), 1.0), weight > 0.0);
            kept = min(kept, mass + ties * weight);
        }
    }
    if cut.w > 0.0 {
        all_above(cut.w, invocation);
        if invocation == 0u {
            kept = min(kept, all_mass(all_of(0u)));
        }
    }
    workgroupBarrier();
}

// Excludes top choices (XTC): of the kept tokens with at least the share `xtc.y` of the mass, the last stays.
fn all_exclude(xtc: vec4<f32>, number: f32, invocation: u32) {
    let least = xtc.y * kept;
    all_above(least, invocation);
    let likely = min(all_mass(all_of(0u)), kept);
    workgroupBarrier();
    // The last one holds more of the mass than the rounding of the sums.
    all_search(NO_TOKEN, likely * 0.999999, false, invocation);
    if invocation == 0u && number < xtc.x {
        dropped = max(likely - all_weight(key), 0.0);
    }
    workgroupBarrier();
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let row = grid_id(workgroup).x;
    let sequence = pick_sequence(row);
    let cut = cuts[2u * sequence];
    start = (p.first + row) * p.vocab;
    temperature = max(cut.x, 1e-30);
    if invocation == 0u {
        atomicStore(&best, 0u);
        tie = 0u;
        dropped = 0.0;
    }
    workgroupBarrier();
    var largest = 0u;
    for (var i = invocation; i < p.vocab; i += WG) {
        largest = max(largest, all_key(i));
    }
    atomicMax(&best, largest);
    workgroupBarrier();
    if cut.x == 0.0 {
        if invocation == 0u {
            key = atomicLoad(&best);
        }
    } else {
        all_cut(cut, invocation);
        let state = draws[sequence];
        let xtc = cuts[2u * sequence + 1u];
        if xtc.x > 0.0 && xtc.y <= 0.5 {
            all_exclude(xtc, draw_second_number(state), invocation);
        }
        let mass = dropped + draw_number(state) * (kept - dropped);
        all_search(NO_TOKEN, mass, true, invocation);
        if invocation == 0u {
            if atomicLoad(&best) > 0u {
                draws[sequence] = draw_next(state);
            }
            let weight = all_weight(key);
            tie = select(0u, u32(max((mass - all_mass(before_mass)) / weight, 0.0)), weight > 0.0);
            tie = min(tie, atomicLoad(&number_of[key & 255u]) - 1u);
        }
    }
    workgroupBarrier();
    // Finds the token among those with this key, in order: each invocation counts those of its part.
    all_clear(invocation);
    let part = (p.vocab + WG - 1u) / WG;
    let end = min((invocation + 1u) * part, p.vocab);
    for (var i = invocation * part; i < end; i += 1u) {
        if all_key(i) == key {
            atomicAdd(&number_of[invocation], 1u);
        }
    }
    workgroupBarrier();
    var passed = 0u;
    for (var other = 0u; other < invocation; other += 1u) {
        passed += atomicLoad(&number_of[other]);
    }
    for (var i = invocation * part; i < end; i += 1u) {
        if all_key(i) == key {
            if passed == tie {
                // The best is a NaN if all logits are.
                let id = select(NO_TOKEN, i, atomicLoad(&best) > 0u);
                ids[sequence] = id;
                count_token(sequence, id);
            }
            passed += 1u;
        }
    }
}
