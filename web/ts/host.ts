/** What a thread with the WebAssembly module does for models. */
import { OptionError } from './errors.js';
import { resolve } from './hub.js';
import type { CallContext } from './rpc.js';
import { download, type DownloadContext } from './store.js';
import type { ModelOptions, Progress, Stats, StoreOptions } from './types.js';
import init, { LoadedModel, memoryBytes, Sha256 } from './wasm/ferrum_wgpu_web.js';

/** A source that can be sent to another thread. */
export type SentSource = string | Blob | readonly Blob[] | FileSystemFileHandle;

/** Options that can be sent to another thread. */
export type SentOptions = ModelOptions & Omit<StoreOptions, 'onProgress' | 'signal'>;

export interface LoadArgument {
  source: SentSource;
  options: SentOptions;
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

/** Returns the methods of a host: of one model, and of the store. */
export function makeHost() {
  let model: LoadedModel | undefined;
  let lost = false;

  const loaded = () => {
    if (!model) throw new OptionError('option', 'no model is loaded');
    return model;
  };

  const files = async ({ source, options }: LoadArgument, context: CallContext): Promise<Blob[]> => {
    if (source instanceof Blob) return [source];
    if (typeof source !== 'string') return 'getFile' in source ? [await source.getFile()] : [...source];
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
        progress: ({ stage, loaded, total: size }) =>
          tell(context, { stage, loaded: before + loaded, total: Math.max(total, before + size) }),
      };
      const blob = await download(sha256 ? { ...file, sha256 } : file, each);
      before += blob.size;
      found.push(blob);
    }
    return found;
  };

  return {
    /** Downloads a model's files to the store, if they are not there. */
    async download(argument: LoadArgument, context: CallContext): Promise<File[]> {
      await start();
      return await files(argument, context) as File[];
    },

    async load(argument: LoadArgument, context: CallContext): Promise<Stats> {
      await start();
      const [file] = await files(argument, context);
      context.signal.throwIfAborted();
      const told = (stage: Progress['stage'], loaded: number, total: number) => {
        context.signal.throwIfAborted();
        tell(context, { stage, loaded, total });
      };
      const source = {
        length: file!.size,
        read: async (offset: number, length: number) => {
          context.signal.throwIfAborted();
          return new Uint8Array(await file!.slice(offset, offset + length).arrayBuffer());
        },
      };
      const made = await LoadedModel.load(source, JSON.stringify(argument.options), told);
      if (context.signal.aborted) {
        made.free();
        context.signal.throwIfAborted();
      }
      model = made;
      return JSON.parse(model.stats());
    },

    /** Answers a request. Emits `null` once it has begun, then the chunks of a stream. Returns a whole response. */
    async request({ kind, body }: RequestArgument, context: CallContext): Promise<string | undefined> {
      const model = loaded();
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
      } catch (error) {
        lost ||= (error as { code?: string }).code === 'device_lost';
        throw error;
      } finally {
        context.signal.removeEventListener('abort', cancel);
        reply.free();
      }
    },

    async tokenize(body: string): Promise<string> {
      return loaded().tokenize(body);
    },

    async detokenize(body: string): Promise<string> {
      return loaded().detokenize(body);
    },

    async stats(): Promise<Stats> {
      return JSON.parse(loaded().stats());
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
