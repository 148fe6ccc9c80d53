/** The page: choose a model, load it, talk to it. */
import {
  conformance, DeviceCheckError, Model, store, type ChatMessage, type DeviceCheck, type Fit, type ModelSource, type Progress,
} from 'ferrum-wgpu';

const $ = <T extends HTMLElement = HTMLElement>(id: string): T => document.getElementById(id) as T;
const text = $<HTMLTextAreaElement>('text');
const log = $('log');

/** Models to choose from. */
const CHOICES: { title: string; about: string; source: string }[] = [
  { title: 'Demo', about: '5 MiB, knows a few capitals', source: './models/demo-q4_k_m.gguf' },
  { title: 'SmolLM2 135M', about: '101 MiB', source: 'bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M' },
  { title: 'Qwen3 0.6B', about: '610 MiB', source: 'Qwen/Qwen3-0.6B-GGUF:Q8_0' },
  { title: 'Qwen3 30B A3B', about: '18 GiB, mixture of experts', source: 'Qwen/Qwen3-30B-A3B-GGUF:Q4_K_M' },
];

interface Turn {
  role: 'user' | 'assistant';
  content: string;
  reasoning?: string;
  usage?: string;
  error?: string;
}

let model: Model | undefined;
let turns: Turn[] = [];
let replying: AbortController | undefined;
let loading: AbortController | undefined;

function make<K extends keyof HTMLElementTagNameMap>(tag: K, content = '', name = ''): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  element.textContent = content;
  if (name) element.className = name;
  return element;
}

function size(bytes: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB'];
  let unit = 0;
  for (; bytes >= 1024 && unit < 3; unit++) bytes /= 1024;
  return `${unit === 0 || bytes >= 100 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

// Choosing and loading.

for (const { title, about, source } of CHOICES) {
  const item = make('div');
  item.setAttribute('role', 'listitem');
  const button = make('button', title);
  button.type = 'button';
  button.append(make('small', about));
  button.onclick = () => check(source, title);
  item.append(button);
  $('choices').append(item);
}

$('from').onsubmit = (event) => {
  event.preventDefault();
  const source = $<HTMLInputElement>('source').value.trim();
  if (source) check(source, source);
};

$<HTMLInputElement>('files').onchange = (event) => open(event.target as HTMLInputElement);

function open(input: { files: FileList | null }): void {
  const files = [...input.files ?? []].sort((a, b) => a.name.localeCompare(b.name));
  if (files[0]) check(files.length > 1 ? files : files[0], files[0].name);
}

function options() {
  return { context: Number($<HTMLInputElement>('context').value) || 2048 };
}

/** Shows whether a model fits, and offers to load it. */
async function check(source: ModelSource, title: string): Promise<void> {
  if (loading) return;
  const box = $('fit');
  box.hidden = false;
  box.replaceChildren(make('p', `Reading the header of ${title} …`, 'dim'));
  let fit: Fit;
  try {
    fit = await Model.fits(source, options());
  } catch (error) {
    box.replaceChildren(make('p', messageOf(error), 'bad'));
    return;
  }
  const table = make('table');
  const { memory } = fit;
  const rows: [string, number][] = [['File', fit.fileBytes], ['To download', fit.downloadBytes]];
  if (memory) {
    const { weights, kv, activations, total } = memory;
    rows.push(['Weights', weights], ['KV cache', kv], ['Between kernels', activations], ['GPU memory in all', total]);
  }
  for (const [name, bytes] of rows) {
    const row = make('tr');
    const head = make('th', name);
    head.scope = 'row';
    row.append(head, make('td', size(bytes)));
    table.append(row);
  }
  const verdict = make('p', fit.fits ? `${title} fits.` : `${title} does not fit.`, fit.fits ? 'good' : 'bad');
  const reasons = [...fit.reasons, ...fit.warnings].map((reason) => make('p', reason, 'bad'));
  const load = make('button', 'Load', 'primary');
  load.id = 'load';
  load.type = 'button';
  load.disabled = !fit.fits;
  load.onclick = () => start(source);
  box.replaceChildren(make('strong', title), table, verdict, ...reasons, load);
  load.focus();
}

const STAGES: Record<Progress['stage'], string> = {
  download: 'Downloading', verify: 'Checking the hash', read: 'Reading', upload: 'Sending to the GPU', compile: 'Compiling kernels',
  check: 'Checking this GPU',
};

async function start(source: ModelSource): Promise<void> {
  if (loading) return;
  loading = new AbortController();
  const { signal } = loading;
  $('fit').hidden = true;
  $('progress').hidden = false;
  const begun = { stage: '', at: 0, from: 0 };
  const onProgress = ({ stage, loaded, total }: Progress) => {
    const now = performance.now();
    if (stage !== begun.stage) Object.assign(begun, { stage, at: now, from: loaded });
    const rate = now - begun.at > 1000 ? (loaded - begun.from) / (now - begun.at) * 1000 : 0;
    const counts = stage === 'compile' || stage === 'check' ? `${loaded} of ${total}` : `${size(loaded)} of ${size(total)}`;
    const speed = stage === 'download' && rate ? `, ${size(rate)}/s` : '';
    $('stage').textContent = `${STAGES[stage]}: ${counts}${speed}`;
    $<HTMLProgressElement>('bar').value = total ? loaded / total : 0;
  };
  $('stage').textContent = 'Starting';
  try {
    await model?.unload();
    model = undefined;
    show();
    // So that the browser keeps what was downloaded; it may refuse.
    if (typeof source === 'string') await store.persist().catch(() => false);
    model = await Model.load(source, { ...options(), onProgress, signal });
    const { context, check, device } = await model.stats();
    $('model').textContent = `${model.name}, context of ${context} tokens`;
    if (check) right(check, device.subgroups);
    reset();
    togglePanel(false);
  } catch (error) {
    if (error instanceof DeviceCheckError) {
      verdict(`Wrong: ${new Set(error.wrong.map(({ kernel }) => kernel)).size} kernels`, false);
      $('kernels').hidden = false;
      $('kernels').querySelector('tbody')!.replaceChildren(...error.wrong.map(({ kernel, variant, message }) => {
        const row = make('tr', '', 'bad');
        for (const cell of [kernel, variant, '1', message]) row.append(make('td', cell));
        return row;
      }));
      $<HTMLDetailsElement>('conformance').open = true;
    }
    $('fit').hidden = false;
    const stopped = signal.aborted ? 'Stopped. What was downloaded is kept.' : messageOf(error);
    $('fit').replaceChildren(make('p', stopped, signal.aborted ? 'dim' : 'bad'));
  }
  loading = undefined;
  $('progress').hidden = true;
  show();
  void listStored();
}

$('cancel').onclick = () => loading?.abort();

async function listStored(): Promise<void> {
  try {
    const files = await store.list();
    $('storedList').replaceChildren(...files.map((file) => {
      const item = make('li');
      const name = decodeURIComponent(file.url.split('/').at(-1)!);
      const state = file.complete ? size(file.size) : `${size(file.bytes)} of ${size(file.size)}`;
      const remove = make('button', 'Delete');
      remove.setAttribute('aria-label', `Delete ${name}`);
      remove.onclick = async () => {
        await store.delete(file.url);
        await listStored();
      };
      item.append(make('span', `${name}, ${state}${file.sha256 ? ', SHA-256 checked' : ''}`), remove);
      return item;
    }));
    const { usage = 0, quota = 0 } = await store.estimate();
    $('space').textContent = `${size(usage)} used of ${size(quota)} that the browser grants`;
  } catch (error) {
    $('space').textContent = messageOf(error);
  }
}

// The GPU's results.

function verdict(content: string, right: boolean): void {
  $('verdict').textContent = content;
  $('verdict').className = right ? 'good' : 'bad';
}

/** Shows a check of the model's kernels. */
function right({ kernels, planned, cases }: DeviceCheck, subgroups: boolean): void {
  const withOrNot = subgroups ? 'with' : 'without';
  verdict(`Right: ${kernels} of ${planned} kernels of ${model?.name}, ${cases} cases, ${withOrNot} subgroups`, true);
}

$('judge').onclick = async () => {
  const button = $<HTMLButtonElement>('judge');
  const body = $('kernels').querySelector('tbody')!;
  button.disabled = true;
  $('kernels').hidden = false;
  body.replaceChildren();
  $('verdict').textContent = 'Running …';
  $('verdict').className = '';
  try {
    const result = await conformance({
      onReport: (report) => {
        const row = make('tr', '', report.passed ? '' : 'bad');
        const worst = report.worst?.toPrecision(2) ?? 'not a number';
        for (const cell of [report.kernel, report.variant, String(report.cases), worst]) row.append(make('td', cell));
        body.append(row);
      },
    });
    const { passed, failed } = result;
    verdict(failed ? `Wrong: ${failed} of ${passed + failed}` : `Right: ${passed} of ${passed}`, !failed);
  } catch (error) {
    verdict(messageOf(error), false);
  }
  button.disabled = false;
};

// The conversation.

/** Shows text with code blocks and inline code. Nothing of it is read as HTML. */
function render(into: HTMLElement, content: string): void {
  into.textContent = '';
  content.split(/^```/m).forEach((part, index) => {
    if (index % 2) {
      const end = part.indexOf('\n');
      const block = make('pre');
      block.tabIndex = 0;
      block.append(make('code', end < 0 ? '' : part.slice(end + 1).replace(/\n$/, '')));
      into.append(block);
      return;
    }
    for (const paragraph of part.split(/\n{2,}/)) {
      if (!paragraph.trim()) continue;
      const element = make('p');
      paragraph.trim().split(/`([^`\n]+)`/).forEach((piece, i) => element.append(i % 2 ? make('code', piece) : piece));
      into.append(element);
    }
  });
}

/** Adds a turn. Returns the function that shows its changes. */
function add(turn: Turn): () => void {
  const element = make('article', '', `message ${turn.role}`);
  log.append(element);
  if (turn.role === 'user') {
    element.textContent = turn.content;
    return () => undefined;
  }
  const details = make('details');
  const reasoning = make('div');
  const body = make('div');
  const usage = make('p', '', 'dim usage');
  details.append(make('summary', 'Reasoning'), reasoning);
  element.append(details, body, usage);
  const update = () => {
    details.hidden = !turn.reasoning;
    reasoning.textContent = turn.reasoning ?? '';
    render(body, turn.content);
    usage.textContent = turn.usage ?? '';
    if (turn.error) body.append(make('p', turn.error, 'bad'));
  };
  update();
  return update;
}

function reset(): void {
  replying?.abort();
  turns = [];
  log.replaceChildren(make('p', model ? 'What would you like to know?' : 'Choose a model to begin.', 'dim message'));
  show();
  text.focus();
}

/** Shows what can be done now. */
function show(): void {
  const ready = model !== undefined && !replying;
  text.disabled = model === undefined;
  $<HTMLButtonElement>('send').disabled = !ready;
  $('send').hidden = replying !== undefined;
  $('stop').hidden = replying === undefined;
  if (!model) $('model').textContent = 'no model';
}

async function send(content: string): Promise<void> {
  if (!model || replying || !content) return;
  if (turns.length === 0) log.replaceChildren();
  const user: Turn = { role: 'user', content };
  turns.push(user);
  add(user);
  const messages = turns.map(({ role, content }): ChatMessage => ({ role, content }));
  const reply: Turn = { role: 'assistant', content: '' };
  const update = add(reply);
  log.scrollTop = log.scrollHeight;
  replying = new AbortController();
  const { signal } = replying;
  show();
  $('status').textContent = 'The model replies.';
  const begun = performance.now();
  let first = 0;
  let last = 0;
  let tokens = 0;
  let drawing = false;
  const draw = () => {
    drawing = false;
    const low = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    update();
    if (low) log.scrollTop = log.scrollHeight;
  };
  try {
    const request = { messages, stream: true as const, stream_options: { include_usage: true } };
    for await (const chunk of await model.chat.completions.create(request, { signal })) {
      const delta = chunk.choices[0]?.delta;
      if (delta?.content || delta?.reasoning_content) {
        tokens++;
        last = performance.now();
        first ||= last;
        reply.content += delta.content ?? '';
        reply.reasoning = (reply.reasoning ?? '') + (delta.reasoning_content ?? '');
        if (last - first > 500) reply.usage = `${((tokens - 1) / (last - first) * 1000).toFixed(1)} tokens/s`;
      }
      if (chunk.usage) {
        const { prompt_tokens, completion_tokens, prompt_tokens_details } = chunk.usage;
        const cached = prompt_tokens_details?.cached_tokens ?? 0;
        const rate = last > first ? (completion_tokens - 1) / (last - first) * 1000 : 0;
        const prompt = first > begun ? (prompt_tokens - cached) / (first - begun) * 1000 : 0;
        reply.usage = `${completion_tokens} tokens, ${rate.toFixed(1)} tokens/s · prompt: ${prompt_tokens} tokens, `
          + `${cached} cached, ${prompt.toFixed(0)} tokens/s`;
      }
      if (!drawing) {
        drawing = true;
        requestAnimationFrame(draw);
      }
    }
  } catch (error) {
    if (signal.aborted) reply.usage = `${reply.usage ? `${reply.usage} · ` : ''}stopped`;
    else reply.error = messageOf(error);
  }
  // An empty turn would not be a message.
  if (reply.content) turns.push(reply);
  else turns.pop();
  if (replying?.signal === signal) replying = undefined;
  draw();
  show();
  $('status').textContent = reply.error ?? 'The reply is complete.';
  const stats = await model?.stats().catch(() => undefined);
  if (stats) {
    if (stats.check?.passed) right(stats.check, stats.device.subgroups);
    $('usage').classList.add('live');
    $('usage').textContent = `GPU: ${stats.device.name || 'WebGPU'} · module: ${size(stats.wasmBytes)} · `
      + `${stats.kvBlocks.total - stats.kvBlocks.free} of ${stats.kvBlocks.total} KV blocks in use`;
  }
  text.focus();
}

function grow(): void {
  text.style.height = 'auto';
  text.style.height = `${text.scrollHeight + 2}px`;
}

$('form').onsubmit = (event) => {
  event.preventDefault();
  const content = text.value.trim();
  if (!model || replying || !content) return;
  text.value = '';
  grow();
  void send(content);
};
text.oninput = grow;
text.onkeydown = (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $<HTMLFormElement>('form').requestSubmit();
};
$('stop').onclick = () => replying?.abort();
$('new').onclick = reset;

// The page itself.

function togglePanel(open: boolean): void {
  $('panel').hidden = !open;
  $('models').setAttribute('aria-expanded', String(open));
}

function remember(name: string, value?: string): string | null {
  try {
    if (value !== undefined) localStorage.setItem(name, value);
    return localStorage.getItem(name);
  } catch {
    // Private windows keep nothing.
    return null;
  }
}

$('models').onclick = () => togglePanel(Boolean($('panel').hidden));
$('theme').onclick = () => {
  const { dataset } = document.documentElement;
  const dark = dataset.theme ? dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  dataset.theme = dark ? 'light' : 'dark';
  remember('theme', dataset.theme);
};
const theme = remember('theme');
if (theme === 'dark' || theme === 'light') document.documentElement.dataset.theme = theme;
addEventListener('keydown', (event) => {
  if (event.key === 'Escape') replying?.abort();
});
addEventListener('dragover', (event) => {
  event.preventDefault();
  $('drop').hidden = false;
});
addEventListener('dragleave', (event) => {
  if (!event.relatedTarget) $('drop').hidden = true;
});
addEventListener('drop', (event) => {
  event.preventDefault();
  $('drop').hidden = true;
  if (event.dataTransfer) open(event.dataTransfer);
});

if (!('gpu' in navigator)) {
  $('fit').hidden = false;
  $('fit').replaceChildren(make('p', 'This browser has no WebGPU. Chrome, Edge, Safari 26 and Firefox 141 have it on most systems.', 'bad'));
}
reset();
void listStored();
// A page of http, but for localhost, has no service workers.
navigator.serviceWorker?.register('sw.js').catch(() => undefined);
