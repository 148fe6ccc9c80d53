/** What a thread with the WebAssembly module does for models. */
import { keep, kept } from './checks.js';
import { OptionError, refuseWrong, UnloadedError } from './errors.js';
import { resolve } from './hub.js';
import type { CallContext } from './rpc.js';
import { Beginning, checkSpace, download, missing, probe, stored, type DownloadContext } from './store.js';
import type {
  ConformanceOptions, ConformanceResult, DeviceCheck, Fit, ModelOptions, Progress, Stats, StoreOptions,
} from './types.js';
import init, { conformance, fits, LoadedModel, memoryBytes, ModelDevice, Sha256 } from './wasm/ferrum_wgpu_web.js';

/** A source that can be sent to another thread. */
export type SentSource = string | Blob | readonly Blob[] | FileSystemFileHandle;

/** Options that can be sent to another thread. */
export type SentOptions = ModelOptions & Omit<StoreOptions, 'onProgress' | 'signal'>;

export interface LoadArgument {
  source: SentSource;
  options: SentOptions;
  /** Downloads the files elsewhere, for a thread that cannot write to the store as a download must. */
  download?: (() => Promise<Blob[]>) | undefined;
}

export interface RequestArgument {
  kind: 'chat' | 'completion';
  /** The request as JSON. */
  body: string;
}

let started: Promise<unknown> | undefined;

/** Starts the WebAssembly module, once in a thread. */
function start(): Promise<unknown> {
  started ??= init({ module_or_path: new URL('./wasm/ferrum_wgpu_web_bg.wasm', import.meta.url) });
  return started;
}

/** A file of a model by its address, of which a beginning may be read by requests. */
interface RemoteSource {
  url: string;
  size: number;
  source: ByteSource;
  /** None of a stored file. */
  begun?: Beginning;
}

/** Returns the files of a model by its address or name, which are read from the store or by requests of ranges. */
async function remoteSources(from: string, { hub, headers }: SentOptions, signal: AbortSignal): Promise<RemoteSource[]> {
  const remote = await resolve(from, { hub, headers, signal });
  return Promise.all(remote.map(async (file) => {
    const { url } = file;
    const have = await stored(url).catch(() => undefined);
    if (have) return { url, size: have.size, source: blobSource(have, signal) };
    const size = file.size ?? (await probe(file, { headers, signal })).size;
    const begun = new Beginning(url, headers, signal);
    return { url, size, begun, source: { name: url, length: size, read: (offset, length) => begun.read(offset, offset + length) } };
  }));
}

/** Returns the methods of a host: of one model, and of the store. */
export function makeHost() {
  let model: LoadedModel | undefined;
  let lost = false;
  let check: DeviceCheck | undefined;
  const work = new Work();

  const loaded = () => {
    if (!model) throw new OptionError('option', 'no model is loaded');
    return model;
  };

  const files = async (
    { source, options, download: elsewhere }: LoadArgument, context: CallContext, read: RemoteSource[] = [],
  ): Promise<Blob[]> => {
    if (source instanceof Blob) return [source];
    if (typeof source !== 'string') return 'getFile' in source ? [await source.getFile()] : [...source];
    if (elsewhere) return elsewhere();
    const { headers, hub, connections, refresh, sha256 } = options;
    const remote = await resolve(source, { hub, headers, signal: context.signal });
    if (sha256 && remote.length > 1) throw new OptionError('option', 'sha256 is of one file, and the model has several');
    const found: Blob[] = [];
    // Progress is that of all parts.
    const total = remote.reduce((sum, file) => sum + (file.size ?? 0), 0);
    let before = 0;
    for (const file of remote) {
      const each: DownloadContext = {
        headers, connections, refresh, signal: context.signal,
        hash: () => new Sha256(),
        begun: read.find(({ url }) => url === file.url)?.begun,
        progress: ({ stage, loaded, total: size }) =>
          tell(context, { stage, loaded: before + loaded, total: Math.max(total, before + size) }),
      };
      const blob = await download(sha256 ? { ...file, sha256 } : file, each);
      before += blob.size;
      found.push(blob);
    }
    return found;
  };

  const answer = async (model: LoadedModel, kind: RequestArgument['kind'], body: string, context: CallContext) => {
    if (lost) {
      await model.recover();
      lost = false;
    }
    const reply = kind === 'chat' ? model.chat(body) : model.completion(body);
    const cancel = () => reply.cancel();
    context.signal.addEventListener('abort', cancel);
    try {
      context.emit(null);
      const stream = JSON.parse(body).stream === true;
      let last: string | undefined;
      for (;;) {
        const text: string | undefined = await reply.next();
        context.signal.throwIfAborted();
        if (text === undefined) return last;
        if (stream) context.emit(text);
        else last = text;
      }
    } finally {
      context.signal.removeEventListener('abort', cancel);
      reply.free();
    }
  };

  return {
    /** Reads the header of a model, and tells whether it can run here. */
    async fits({ source, options }: LoadArgument, { signal }: CallContext): Promise<Fit> {
      await start();
      let download = 0;
      let sources: ByteSource[];
      if (typeof source === 'string') {
        const remote = await remoteSources(source, options, signal);
        for (const { url, size, begun } of remote) if (begun) download += await missing(url, size);
        sources = remote.map(({ source }) => source);
      } else {
        const blobs = await files({ source, options }, { emit: () => undefined, signal });
        sources = blobs.map((blob) => blobSource(blob, signal));
      }
      const text = await fits(sources, JSON.stringify(options));
      return withStorage({ ...JSON.parse(text), warnings: [], downloadBytes: download });
    },

    /** Judges kernels on this device. Emits reports. */
    async conformance(options: ConformanceOptions, context: CallContext): Promise<ConformanceResult> {
      await start();
      const told = (report: string) => context.emit(JSON.parse(report));
      return JSON.parse(await conformance(options.pattern ?? '', options.whole ?? false, told));
    },

    /** Checks the kernels that a model needs on this device, from the model's header. */
    async check({ source, options }: LoadArgument, context: CallContext): Promise<DeviceCheck> {
      await start();
      const { signal } = context;
      const device = await ModelDevice.open(JSON.stringify(options));
      const sources = typeof source === 'string'
        ? (await remoteSources(source, options, signal)).map(({ source }) => source)
        : (await files({ source, options }, context)).map((blob) => blobSource(blob, signal));
      const { plan, check } = await checked(device, sources, (loaded, total) => tell(context, { stage: 'check', loaded, total }), signal);
      await finishCheck(device, plan, check, () => signal.throwIfAborted());
      return check;
    },

    /** Downloads a model's files to the store, if they are not there. */
    async download(argument: LoadArgument, context: CallContext): Promise<File[]> {
      await start();
      return await files(argument, context) as File[];
    },

    async load(argument: LoadArgument, context: CallContext): Promise<Stats> {
      await start();
      const { signal } = context;
      const options = JSON.stringify(argument.options);
      const told = (stage: Progress['stage']) => (loaded: number, total: number) => tell(context, { stage, loaded, total });
      const device = await ModelDevice.open(options);
      const compile = (sources: ByteSource[]) => device.compile(sources, true, told('compile'));
      const read = typeof argument.source === 'string'
        ? await remoteSources(argument.source, argument.options, signal)
        : undefined;
      const remote = read?.map(({ source }) => source);
      const local = remote ? [] : (await files(argument, context)).map((blob) => blobSource(blob, signal));
      let plan: Plan | undefined;
      if (argument.options.check !== false && argument.options.device !== 'cpu') {
        ({ plan, check } = await checked(device, remote ?? local, told('check'), signal));
        refuseWrong(check);
      }
      // The headers are enough to compile the kernels while the files are downloaded. What fails then fails again below.
      const early = remote && compile(remote).catch(() => undefined);
      const sources = remote ? (await files(argument, context, read)).map((blob) => blobSource(blob, signal)) : local;
      signal.throwIfAborted();
      const [made] = await Promise.all([
        LoadedModel.load(device, sources, options, told('upload')),
        early ?? compile(sources),
      ]);
      if (context.signal.aborted) {
        made.free();
        context.signal.throwIfAborted();
      }
      model = made;
      // The kernels that a first reply does not need come later, while nothing is computed.
      const later = async () => {
        const idle = () => work.idle(() => model === made);
        if (plan && check) await finishCheck(device, plan, check, idle);
        await idle();
        await device.compile(sources, false, () => undefined);
      };
      // Nothing is lost if it ends early: kernels are compiled when they are needed, and the next load checks them.
      later().catch(() => undefined).finally(() => device.free());
      return { ...JSON.parse(model.stats()), check: check && { ...check } };
    },

    /** Answers a request. Emits `null` once it has begun, then the chunks of a stream. Returns a whole response. */
    async request({ kind, body }: RequestArgument, context: CallContext): Promise<string | undefined> {
      const model = loaded();
      if (check) refuseWrong(check);
      work.begin();
      try {
        return await answer(model, kind, body, context);
      } catch (error) {
        lost ||= (error as { code?: string }).code === 'device_lost';
        throw error;
      } finally {
        work.end();
      }
    },

    async embeddings(body: string, { signal }: CallContext): Promise<string> {
      const model = loaded();
      if (check) refuseWrong(check);
      work.begin();
      try {
        const response = await model.embeddings(body);
        signal.throwIfAborted();
        return response;
      } finally {
        work.end();
      }
    },

    async tokenize(body: string): Promise<string> {
      return loaded().tokenize(body);
    },

    async detokenize(body: string): Promise<string> {
      return loaded().detokenize(body);
    },

    async stats(): Promise<Stats> {
      return { ...JSON.parse(loaded().stats()), check: check && { ...check } };
    },

    async memory(): Promise<number> {
      await start();
      return memoryBytes();
    },

    async unload(): Promise<void> {
      model?.free();
      model = undefined;
    },
  };
}

export type Host = ReturnType<typeof makeHost>;

function tell(context: CallContext, progress: Progress): void {
  context.emit(progress);
}

/** The kernels of a model on a device: the number of all, and of those that a first reply needs. */
interface Plan {
  key: string;
  first: number;
  all: number;
}

/** Checks the kernels that a first reply needs, unless their result was kept. A device whose kernels with subgroup operations are
 * wrong goes on without them. */
async function checked(
  device: ModelDevice,
  sources: ByteSource[],
  told: (done: number, all: number) => void,
  signal: AbortSignal,
): Promise<{ plan: Plan; check: DeviceCheck }> {
  for (;;) {
    const plan: Plan = JSON.parse(await device.plan(sources));
    let check = await kept(plan.key);
    if (!check) {
      check = JSON.parse(await device.check(0, plan.first, told)) as DeviceCheck;
      await keep(plan.key, check);
    }
    signal.throwIfAborted();
    if (check.passed || !device.subgroups) return { plan, check };
    await device.leaveOutSubgroups();
  }
}

/** Checks the other kernels, each after `turn`, adds them to `check`, and keeps it. A wrong device is not checked further. */
async function finishCheck(device: ModelDevice, plan: Plan, check: DeviceCheck, turn: () => unknown): Promise<void> {
  for (let next = check.kernels; next < plan.all && check.passed; next++) {
    await turn();
    const { kernels, cases, passed, wrong }: DeviceCheck = JSON.parse(await device.check(next, next + 1, () => undefined));
    Object.assign(check, { kernels: check.kernels + kernels, cases: check.cases + cases, passed, wrong: [...check.wrong, ...wrong] });
    await keep(plan.key, check);
  }
}

/** The requests in progress. */
class Work {
  #running = 0;
  #begun = 0;

  begin(): void {
    this.#running++;
    this.#begun++;
  }

  end(): void {
    this.#running--;
  }

  /** Waits until nothing was computed for a second. Fails once `wanted` does not hold. */
  async idle(wanted: () => boolean): Promise<void> {
    for (;;) {
      const before = this.#begun;
      await new Promise((resolve) => setTimeout(resolve, 1000));
      if (!wanted()) throw new UnloadedError('unloaded', 'the model was unloaded');
      if (this.#running === 0 && this.#begun === before) return;
    }
  }
}

/** A file that the module reads in ranges. */
interface ByteSource {
  name: string;
  length: number;
  read(offset: number, length: number): Promise<Uint8Array>;
}

function blobSource(blob: Blob, signal: AbortSignal): ByteSource {
  return {
    name: blob instanceof File ? blob.name : 'blob',
    length: blob.size,
    async read(offset, length) {
      signal.throwIfAborted();
      return new Uint8Array(await blob.slice(offset, offset + length).arrayBuffer());
    },
  };
}

/** Adds what the browser's storage and memory allow. */
async function withStorage(fit: Fit): Promise<Fit> {
  try {
    if (fit.downloadBytes > 0) await checkSpace(fit.downloadBytes);
  } catch (error) {
    fit.reasons.push((error as Error).message);
    fit.fits = false;
  }
  // Browsers tell no more than 8 GiB, and nothing of the GPU.
  const { deviceMemory } = navigator as { deviceMemory?: number };
  if (deviceMemory && deviceMemory < 8 && fit.memory && fit.memory.total > deviceMemory * 2 ** 30 / 2) {
    fit.warnings.push(`the model needs more than half of this device's ${deviceMemory} GiB of memory`);
  }
  return fit;
}
