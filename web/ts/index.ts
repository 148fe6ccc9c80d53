/** Language models from GGUF files in a browser tab, on its GPU. */
import { forget } from './checks.js';
import { makeError, UnloadedError } from './errors.js';
import { makeHost, type Host, type SentOptions, type SentSource } from './host.js';
import type {
  ChatCompletion, ChatCompletionChunk, ChatRequest, Completion, CompletionRequest, EmbeddingRequest, EmbeddingResponse,
} from './openai.js';
import { LocalEndpoint, WorkerEndpoint, type Endpoint } from './rpc.js';
import { list, remove } from './store.js';
import type {
  ConformanceOptions, ConformanceResult, DeviceCheck, Fit, LoadOptions, ModelSource, Progress, Stats, StoredFile, StoreOptions,
} from './types.js';

export * from './errors.js';
export type * from './openai.js';
export type * from './types.js';

export interface RequestOptions {
  /** Ends the reply. */
  signal?: AbortSignal;
}

/** A streamed reply. Leaving a `for await` over it ends the reply. */
export class ReplyStream<T> implements AsyncIterable<T> {
  readonly #chunks: T[] = [];
  #ended = false;
  #failure: { error: unknown } | undefined;
  #wake: (() => void) | undefined;

  /** `controller.abort()` ends the reply. */
  readonly controller: AbortController;

  /** @internal */
  constructor(controller: AbortController) {
    this.controller = controller;
  }

  /** @internal */
  push(chunk: T): void {
    this.#chunks.push(chunk);
    this.#wake?.();
  }

  /** @internal */
  end(failure?: { error: unknown }): void {
    this.#ended = true;
    this.#failure = failure;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    try {
      for (;;) {
        const chunk = this.#chunks.shift();
        if (chunk !== undefined) yield chunk;
        else if (this.#failure) throw this.#failure.error;
        else if (this.#ended) return;
        else await new Promise<void>((resolve) => { this.#wake = resolve; });
      }
    } finally {
      if (!this.#ended) this.controller.abort();
    }
  }
}

interface Create<Request, Whole, Chunk> {
  (request: Request & { stream: true }, options?: RequestOptions): Promise<ReplyStream<Chunk>>;
  (request: Request & { stream?: false | null }, options?: RequestOptions): Promise<Whole>;
  (request: Request, options?: RequestOptions): Promise<Whole | ReplyStream<Chunk>>;
}

/** A model that is loaded. */
export class Model {
  readonly #endpoint: Endpoint<Host>;
  /** OpenAI's client in small: `chat.completions.create`. */
  readonly chat: { completions: { create: Create<ChatRequest, ChatCompletion, ChatCompletionChunk> } };
  /** Embeddings of texts, by a model that has them. */
  readonly embeddings: { create(request: EmbeddingRequest, options?: RequestOptions): Promise<EmbeddingResponse> };
  readonly completions: { create: Create<CompletionRequest, Completion, Completion> };

  private constructor(endpoint: Endpoint<Host>, /** The model's name. */ readonly name: string) {
    this.#endpoint = endpoint;
    const create = (kind: 'chat' | 'completion') =>
      (request: { stream?: boolean | null }, options?: RequestOptions) => this.#request(kind, request, options);
    this.chat = { completions: { create: create('chat') as Create<ChatRequest, ChatCompletion, ChatCompletionChunk> } };
    this.embeddings = {
      create: async (request, options) =>
        JSON.parse(await this.#endpoint.call('embeddings', JSON.stringify(request), options)),
    };
    this.completions = { create: create('completion') as Create<CompletionRequest, Completion, Completion> };
  }

  /** Loads a model: downloads it to the store if it is not there, and sends it to the GPU. */
  static async load(source: ModelSource, options: LoadOptions = {}): Promise<Model> {
    const { onProgress, signal, worker = true, ...rest } = options;
    const sent: SentOptions = { ...rest, name: rest.name ?? nameOf(source) };
    const from = sendable(source);
    const call = { onEvent: (progress: Progress) => onProgress?.(progress), signal };
    const endpoint = worker ? openWorker() : openHere();
    try {
      // A page's own thread cannot write to the store as a download must.
      const download = worker ? undefined : () => store.download(source, options);
      const { model } = await endpoint.call('load', { source: from, options: sent, download }, call);
      return new Model(endpoint, model);
    } catch (error) {
      endpoint.close(makeError({ code: 'unloaded', message: 'the model was not loaded' }));
      throw error;
    }
  }

  /** Tells whether a model can run here, from the header of its file. */
  static async fits(source: ModelSource, options: LoadOptions = {}): Promise<Fit> {
    const { onProgress: _, signal, worker: __, ...rest } = options;
    return brief((endpoint) => endpoint.call('fits', { source: sendable(source), options: rest }, { signal }));
  }

  /** Checks the kernels that a model needs on this browser's GPU, from the header of its file, as `load` does. */
  static async check(source: ModelSource, options: LoadOptions = {}): Promise<DeviceCheck> {
    const { onProgress, signal, worker: _, ...rest } = options;
    const argument = { source: sendable(source), options: rest };
    return brief((endpoint) => endpoint.call('check', argument, { onEvent: onProgress, signal }));
  }

  /** Forgets the results of checks, so that they are run again. */
  static forgetChecks(): Promise<void> {
    return forget();
  }

  /** Returns the tokens of a text. */
  async tokenize(text: string, options: { addSpecial?: boolean; parseSpecial?: boolean } = {}): Promise<number[]> {
    const { addSpecial = false, parseSpecial = true } = options;
    const request = { content: text, add_special: addSpecial, parse_special: parseSpecial };
    return JSON.parse(await this.#endpoint.call('tokenize', JSON.stringify(request))).tokens;
  }

  /** Returns the text of tokens. */
  async detokenize(tokens: readonly number[]): Promise<string> {
    return JSON.parse(await this.#endpoint.call('detokenize', JSON.stringify({ tokens }))).content;
  }

  /** Returns what the model is and uses. */
  stats(): Promise<Stats> {
    return this.#endpoint.call('stats', undefined);
  }

  /** Ends the model and frees its memory. Replies in progress fail with an `UnloadedError`. */
  async unload(): Promise<void> {
    this.#endpoint.close(new UnloadedError('unloaded', 'the model was unloaded'));
  }

  async #request(kind: 'chat' | 'completion', request: { stream?: boolean | null }, options: RequestOptions = {}) {
    const body = JSON.stringify(request);
    if (!request.stream) {
      const whole = await this.#endpoint.call('request', { kind, body }, options);
      return JSON.parse(whole!);
    }
    const controller = new AbortController();
    const signal = options.signal ? AbortSignal.any([options.signal, controller.signal]) : controller.signal;
    const stream = new ReplyStream<unknown>(controller);
    return new Promise<ReplyStream<unknown>>((resolve, reject) => {
      const onEvent = (chunk: string | null) => {
        if (chunk === null) resolve(stream);
        else stream.push(JSON.parse(chunk));
      };
      this.#endpoint.call('request', { kind, body }, { onEvent, signal }).then(
        () => stream.end(),
        (error) => {
          reject(error);
          stream.end({ error });
        },
      );
    });
  }
}

/** Judges kernels on this browser's GPU against their references. */
export function conformance(options: ConformanceOptions = {}): Promise<ConformanceResult> {
  const { onReport, signal, ...rest } = options;
  return brief((endpoint) => endpoint.call('conformance', rest, { onEvent: onReport, signal }));
}

/** Stored model files of this origin. */
export const store = {
  /** Downloads a model to the store, if it is not there, and returns its files. */
  async download(source: ModelSource, options: StoreOptions = {}): Promise<File[]> {
    const { onProgress, signal, sha256, headers, hub, connections, refresh } = options;
    const sent = { sha256, headers, hub, connections, refresh } as SentOptions;
    const argument = { source: sendable(source), options: sent };
    return brief((endpoint) => endpoint.call('download', argument, { onEvent: onProgress, signal }));
  },
  /** Returns all stored files, complete or not. */
  list: (): Promise<StoredFile[]> => list(),
  /** Deletes a stored file, or what there is of it. */
  delete: (url: string): Promise<void> => remove(url),
  /** Asks the browser to keep the files when space is short. Returns whether it does. */
  persist: (): Promise<boolean> => navigator.storage.persist(),
  /** Returns the bytes that are used and those that the browser grants. */
  estimate: (): Promise<StorageEstimate> => navigator.storage.estimate(),
};

function openWorker(): Endpoint<Host> {
  return new WorkerEndpoint<Host>(new Worker(new URL('./worker.js', import.meta.url), { type: 'module' }));
}

/** Makes one call in a worker of its own. */
async function brief<T>(call: (endpoint: Endpoint<Host>) => Promise<T>): Promise<T> {
  const endpoint = openWorker();
  try {
    return await call(endpoint);
  } finally {
    endpoint.close(new UnloadedError('unloaded', 'the call has ended'));
  }
}

function openHere(): Endpoint<Host> {
  const host = makeHost();
  return new LocalEndpoint<Host>(host, () => void host.unload());
}

function sendable(source: ModelSource): SentSource {
  if (source instanceof URL) return source.href;
  // A worker's addresses are relative to its script.
  if (typeof source === 'string' && /^(\/|\.\.?\/)/.test(source)) return new URL(source, location.href).href;
  return source;
}

function nameOf(source: ModelSource): string {
  if (source instanceof Array) return nameOf(source[0] ?? '');
  const name = typeof source === 'string' ? source : 'pathname' in source ? source.pathname : 'name' in source ? String(source.name) : '';
  return name.split(/[?#]/)[0]!.split('/').at(-1)!.replace(/(-00001-of-\d{5})?\.gguf$/i, '') || 'model';
}
