/** Calls of a host's methods, in this thread or in a worker. */
import { errorData, makeError, type ErrorData } from './errors.js';

export interface CallContext {
  /** Tells the caller something while the call lasts. */
  emit(event: unknown): void;
  signal: AbortSignal;
}

/** Methods with one argument, which return promises. */
export type Methods = Record<string, (argument: never, context: CallContext) => Promise<unknown>>;

export interface CallOptions {
  onEvent?: ((event: never) => void) | undefined;
  signal?: AbortSignal | undefined;
}

/** Something that answers calls. */
export interface Endpoint<M extends Methods> {
  call<K extends keyof M & string>(
    method: K,
    argument: Parameters<M[K]>[0],
    options?: CallOptions,
  ): Promise<Awaited<ReturnType<M[K]>>>;
  close(error: Error): void;
}

type Request = { id: number; method: string; argument: unknown } | { id: number; abort: true };
type Answer =
  | { id: number; event: unknown }
  | { id: number; result: unknown }
  | { id: number; error: ErrorData }
  | { fatal: string };

/** Answers the messages of a worker's owner. */
export function serve(methods: Methods, scope: Pick<Worker, 'postMessage' | 'addEventListener'>): void {
  const running = new Map<number, AbortController>();
  const post = (answer: Answer) => scope.postMessage(answer);
  scope.addEventListener('message', async ({ data }: MessageEvent<Request>) => {
    if ('abort' in data) {
      running.get(data.id)?.abort();
      return;
    }
    const { id, method, argument } = data;
    const controller = new AbortController();
    running.set(id, controller);
    try {
      const context = { emit: (event: unknown) => post({ id, event }), signal: controller.signal };
      post({ id, result: await methods[method]!(argument as never, context) });
    } catch (error) {
      post({ id, error: errorData(error) });
    } finally {
      running.delete(id);
    }
  });
  // A panic of the module ends a task without an answer.
  const fatal = (reason: unknown) => post({ fatal: String((reason as Error)?.message ?? reason) });
  scope.addEventListener('error', (event: Event) => fatal((event as ErrorEvent).message));
  (scope as unknown as EventTarget).addEventListener('unhandledrejection', (event) => fatal((event as PromiseRejectionEvent).reason));
}

interface Pending {
  resolve(result: unknown): void;
  reject(error: Error): void;
  onEvent: CallOptions['onEvent'];
}

/** A worker that runs `serve`. */
export class WorkerEndpoint<M extends Methods> implements Endpoint<M> {
  readonly #worker: Worker;
  readonly #pending = new Map<number, Pending>();
  #closed: Error | undefined;
  #next = 0;

  constructor(worker: Worker) {
    this.#worker = worker;
    worker.onmessage = ({ data }: MessageEvent<Answer>) => this.#answer(data);
    worker.onerror = (event) => {
      event.preventDefault();
      this.close(makeError({ code: 'crash', message: event.message || 'the worker does not start' }));
    };
  }

  call<K extends keyof M & string>(method: K, argument: Parameters<M[K]>[0], options: CallOptions = {}) {
    const { signal, onEvent } = options;
    return new Promise<Awaited<ReturnType<M[K]>>>((resolve, reject) => {
      signal?.throwIfAborted();
      if (this.#closed) throw this.#closed;
      const id = this.#next++;
      const post = (request: Request) => this.#worker.postMessage(request);
      const abort = () => {
        post({ id, abort: true });
        settle(() => reject(signal!.reason));
      };
      const settle = (then: () => void) => {
        signal?.removeEventListener('abort', abort);
        this.#pending.delete(id);
        then();
      };
      this.#pending.set(id, {
        onEvent,
        resolve: (result) => settle(() => resolve(result as never)),
        reject: (error) => settle(() => reject(error)),
      });
      signal?.addEventListener('abort', abort);
      post({ id, method, argument });
    });
  }

  #answer(answer: Answer): void {
    if ('fatal' in answer) {
      this.close(makeError({ code: 'crash', message: answer.fatal }));
      return;
    }
    const pending = this.#pending.get(answer.id);
    if (!pending) return;
    if ('event' in answer) pending.onEvent?.(answer.event as never);
    else if ('error' in answer) pending.reject(makeError(answer.error));
    else pending.resolve(answer.result);
  }

  /** Ends the worker. Calls in progress and later ones fail. */
  close(error: Error): void {
    this.#closed ??= error;
    this.#worker.terminate();
    for (const pending of [...this.#pending.values()]) pending.reject(this.#closed);
  }
}

/** Methods in this thread. */
export class LocalEndpoint<M extends Methods> implements Endpoint<M> {
  #closed: Error | undefined;
  readonly #closing = new AbortController();

  constructor(readonly methods: M, readonly onClose: () => void) {}

  async call<K extends keyof M & string>(
    method: K,
    argument: Parameters<M[K]>[0],
    options: CallOptions = {},
  ): Promise<Awaited<ReturnType<M[K]>>> {
    options.signal?.throwIfAborted();
    if (this.#closed) throw this.#closed;
    const signals = options.signal ? [options.signal, this.#closing.signal] : [this.#closing.signal];
    const context: CallContext = {
      emit: (event) => options.onEvent?.(event as never),
      signal: AbortSignal.any(signals),
    };
    try {
      return await this.methods[method]!(argument as never, context) as Awaited<ReturnType<M[K]>>;
    } catch (error) {
      if (this.#closed) throw this.#closed;
      if (options.signal?.aborted) throw options.signal.reason;
      throw makeError(errorData(error));
    }
  }

  close(error: Error): void {
    if (this.#closed) return;
    this.#closed = error;
    this.#closing.abort();
    this.onClose();
  }
}
