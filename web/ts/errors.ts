import type { DeviceCheck } from './types.js';

/** What went wrong, for programs: each has a class of its own. */
export type ErrorCode =
  /** The browser has no WebGPU adapter, or a kernel does not run on it. */
  | 'gpu'
  /** The browser's GPU computes a kernel wrongly. */
  | 'device_check'
  /** The GPU's device was lost. The next request uses a new one. */
  | 'device_lost'
  /** The model does not fit into memory or the device's limits. */
  | 'memory'
  /** The file is no model that can be run. */
  | 'model'
  /** An option is invalid. */
  | 'option'
  /** A request is invalid. */
  | 'request'
  /** A server did not send the file. */
  | 'download'
  /** The file's SHA-256 is not the expected one. */
  | 'hash'
  /** The browser's storage failed or is full. */
  | 'storage'
  /** The model was unloaded. */
  | 'unloaded'
  /** The WebAssembly module failed. */
  | 'crash';

/** An error as data, which can be sent between threads. */
export interface ErrorData {
  code: ErrorCode | 'abort';
  message: string;
  status?: number | undefined;
  type?: string | undefined;
  param?: string | undefined;
  reason?: string | undefined;
  wrong?: DeviceCheck['wrong'] | undefined;
}

/** An error of this package. `code` says of which kind. */
export class FerrumError extends Error {
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string) {
    super(message);
    this.name = new.target.name;
    this.code = code;
  }
}

/** The browser has no WebGPU adapter, or a kernel does not run on it. */
export class GpuError extends FerrumError {}
/** The GPU's device was lost. The next request uses a new one. */
export class DeviceLostError extends FerrumError {}
/** The model does not fit into memory or the device's limits. */
export class MemoryError extends FerrumError {}
/** The file is no model that can be run. */
export class ModelError extends FerrumError {}
/** An option is invalid. */
export class OptionError extends FerrumError {}
/** The browser's storage failed or is full. */
export class StorageError extends FerrumError {}
/** The file's SHA-256 is not the expected one. */
export class HashError extends FerrumError {}
/** The model was unloaded. */
export class UnloadedError extends FerrumError {}
/** The WebAssembly module failed. */
export class CrashError extends FerrumError {}

/** The browser's GPU computes a kernel wrongly: the message names both. */
export class DeviceCheckError extends FerrumError {
  constructor(message: string, /** The cases with wrong results. */ readonly wrong: DeviceCheck['wrong']) {
    super('device_check', message);
  }
}

/** A server did not send the file. `status` is the HTTP status, if there was a response. */
export class DownloadError extends FerrumError {
  constructor(message: string, readonly status?: number) {
    super('download', message);
  }
}

/** A request is invalid: the error of OpenAI's API. */
export class RequestError extends FerrumError {
  constructor(
    message: string,
    /** The HTTP status that a server would answer with. */
    readonly status: number,
    /** OpenAI's type, such as `invalid_request_error`. */
    readonly type: string,
    /** The field that is wrong. */
    readonly param?: string,
    /** OpenAI's code, such as `context_length_exceeded`. */
    readonly reason?: string,
  ) {
    super('request', message);
  }
}

const CLASSES = {
  gpu: GpuError,
  device_lost: DeviceLostError,
  memory: MemoryError,
  model: ModelError,
  option: OptionError,
  storage: StorageError,
  hash: HashError,
  unloaded: UnloadedError,
  crash: CrashError,
} as const;

/** Returns the error of a code. */
export function makeError(data: ErrorData): Error {
  const { code, message } = data;
  switch (code) {
    case 'abort': return new DOMException(message, 'AbortError');
    case 'device_check': return new DeviceCheckError(message, data.wrong ?? []);
    case 'download': return new DownloadError(message, data.status);
    case 'request':
      return new RequestError(message, data.status ?? 400, data.type ?? 'invalid_request_error', data.param, data.reason);
    default: return new (CLASSES[code] ?? CrashError)(code, message);
  }
}

/** Returns the data of anything that was thrown. */
export function errorData(thrown: unknown): ErrorData {
  if (thrown instanceof DOMException) {
    const code = thrown.name === 'AbortError' ? 'abort' : thrown.name === 'QuotaExceededError' ? 'storage' : undefined;
    if (code) return { code, message: thrown.message };
  }
  if (thrown instanceof Error) {
    const { code, status, type, param, reason, wrong } = thrown as Error & Partial<ErrorData>;
    return { code: typeof code === 'string' ? code : 'crash', message: thrown.message, status, type, param, reason, wrong };
  }
  return { code: 'crash', message: String(thrown) };
}

/** Throws the error of a device that computes wrongly, if it does. @internal */
export function refuseWrong({ device, passed, wrong }: DeviceCheck): void {
  if (passed) return;
  const more = wrong.length > 1 ? ` (and ${wrong.length - 1} more)` : '';
  throw new DeviceCheckError(`this browser's GPU (${device}) computes wrongly: ${wrong[0]?.message}${more}`, wrong);
}
