// Validates the .wgsl files of folders with Tint, the compiler of Dawn and Chromium: as shader modules and as compute
// pipelines, on Dawn's null backend, which needs no GPU. `tint.mjs WEBGPU_PACKAGE FOLDER...`.
import { readFileSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const [packageFolder, ...folders] = process.argv.slice(2);
const { create, globals } = await import(pathToFileURL(join(resolve(packageFolder), 'index.js')).href);
Object.assign(globalThis, globals);

const gpu = create(['backend=null']);
const adapter = await gpu.requestAdapter();
if (!adapter) throw new Error('Dawn has no null adapter');
const requiredFeatures = ['subgroups', 'shader-f16'].filter((feature) => adapter.features.has(feature));
const device = await adapter.requestDevice({ requiredFeatures });
console.log(`Dawn: ${adapter.info.description || adapter.info.vendor || 'null'}, with ${requiredFeatures.join(' and ')}`);

/** Returns Tint's errors for a module, or an empty string. */
async function compileErrors(code) {
  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code });
  device.createComputePipeline({ layout: 'auto', compute: { module } });
  const { messages } = await module.getCompilationInfo();
  const errors = messages.filter((m) => m.type === 'error').map((m) => `${m.lineNum}:${m.linePos} ${m.message}`);
  const error = await device.popErrorScope();
  if (error && errors.length === 0) errors.push(error.message);
  return errors.join('\n');
}

// Check that Tint rejects invalid shaders, one of which naga accepts.
const entry = (body) => `
  @group(0) @binding(0) var<storage, read_write> data: array<u32>;
  @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) i: u32) { ${body} }`;
const divergent = entry('if data[i] == 0u { workgroupBarrier(); }');
const bad = { 'a barrier in divergent flow': divergent, 'a syntax error': 'fn main( {' };
for (const [what, code] of Object.entries(bad)) {
  if (!(await compileErrors(code))) throw new Error(`Tint accepts ${what}`);
}
const good = await compileErrors(entry('data[i] = i;'));
if (good) throw new Error(`Tint rejects a trivial shader: ${good}`);

let passed = 0;
let failed = 0;
for (const folder of folders) {
  for (const file of readdirSync(folder).filter((name) => name.endsWith('.wgsl')).sort()) {
    const error = await compileErrors(readFileSync(join(folder, file), 'utf8'));
    if (error) {
      failed += 1;
      console.error(`FAILED ${file}: ${error}`);
    } else {
      passed += 1;
    }
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
