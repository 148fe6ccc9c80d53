/** Where a model comes from: a URL; a name on Hugging Face, `org/repo`, `org/repo:QUANT` or `org/repo/file.gguf`; a file, or all
 * parts of a split one; the handle of a file. */
export type ModelSource = string | URL | Blob | readonly Blob[] | FileSystemFileHandle;

/** A stage of loading. */
export type Stage =
  /** Bytes of the file come from the network. */
  | 'download'
  /** Bytes of the stored file are hashed. */
  | 'verify'
  /** Bytes of the file are read. */
  | 'read'
  /** Bytes go to the GPU. */
  | 'upload'
  /** Kernels are compiled. */
  | 'compile'
  /** Kernels are compiled, run, and compared with references. */
  | 'check';

export interface Progress {
  stage: Stage;
  /** What is done, in bytes; in kernels for `compile` and `check`. */
  loaded: number;
  /** All of it; 0 where it is not known. */
  total: number;
}

export interface StoreOptions {
  /** Is called as loading goes on. */
  onProgress?: (progress: Progress) => void;
  /** Ends the call. What was downloaded is kept, and a later call continues. */
  signal?: AbortSignal;
  /** The file's SHA-256 in hexadecimal digits. Files of Hugging Face have theirs asked for. */
  sha256?: string;
  /** Headers of requests, such as `{ Authorization: 'Bearer …' }`. */
  headers?: Record<string, string>;
  /** The server of names, `https://huggingface.co` by default. */
  hub?: string;
  /** Requests at once, 4 by default. */
  connections?: number;
  /** Whether a stored file is compared with the server's: `auto` (if the server answers), or `never`. */
  refresh?: 'auto' | 'never';
}

export interface ModelOptions {
  /** The most tokens of a conversation. By default the model's own, 4,096 at most. */
  context?: number;
  /** Requests that are computed at once, 1 by default. More wait. */
  sequences?: number;
  /** `gpu`, or `cpu` for the reference kernels, which are slow. */
  device?: 'gpu' | 'cpu';
  /** Whether the kernels that the model needs are checked on this GPU, once for each GPU and version of the browser: those of a first
   * reply before the download, the others while nothing is computed. A GPU that computes wrongly is refused with a
   * `DeviceCheckError`, by `load` or by the next request. `true` by default. */
  check?: boolean;
  /** `false` leaves out subgroup operations. By default they are used where the browser has them and they pass the check. */
  subgroups?: boolean;
  /** The model's name in responses; by default that of the file. */
  name?: string;
}

export interface LoadOptions extends StoreOptions, ModelOptions {
  /** `false` keeps the model in this thread, which then waits while the tokenizer is made. `true` by default. */
  worker?: boolean;
}

/** What a loaded model is and uses. */
export interface Stats {
  model: string;
  architecture: string;
  layers: number;
  vocabulary: number;
  context: number;
  fileBytes: number;
  device: { name: string; software: boolean; fingerprint: string; subgroups: boolean };
  /** The check of the GPU that came before the model; none if it was left out. */
  check?: DeviceCheck | undefined;
  kvBlocks: { total: number; free: number };
  requests: number;
  /** Bytes of the WebAssembly module's memory. */
  wasmBytes: number;
}

/** A stored file. */
export interface StoredFile {
  url: string;
  size: number;
  /** The bytes that are there: `size` once it is complete. */
  bytes: number;
  complete: boolean;
  /** Its SHA-256, if it was checked. */
  sha256?: string | undefined;
  etag?: string | undefined;
}

/** Whether a model can run here. */
export interface Fit {
  fits: boolean;
  /** Why it cannot. */
  reasons: string[];
  /** What may be too much; browsers do not tell. */
  warnings: string[];
  /** The length of all files. */
  fileBytes: number;
  /** Bytes that are missing in the store. 0 for files. */
  downloadBytes: number;
  /** GPU memory in bytes; nothing if the file is no supported model. */
  memory: {
    weights: number;
    kv: number;
    states: number;
    activations: number;
    total: number;
    /** The largest piece that the device must bind as a whole. */
    largest: { name: string; bytes: number };
  } | null;
  model: { architecture: string; layers: number; context: number } | null;
  device: { name: string; features: string[]; largestBinding: number; largestBuffer: number } | null;
}

/** The result of a check of the kernels that a model needs. */
export interface DeviceCheck {
  /** The device's name. */
  device: string;
  /** Whether the kernels use subgroup operations. */
  subgroups: boolean;
  /** The kernels that were run: before a model is loaded those of a first reply, the others after it while nothing is computed. */
  kernels: number;
  /** All kernels that the model needs. */
  planned: number;
  cases: number;
  passed: boolean;
  wrong: { kernel: string; variant: string; case: string; message: string }[];
}

/** The result of one kernel. */
export interface KernelReport {
  kernel: string;
  variant: string;
  cases: number;
  passed: boolean;
  /** The largest error as a part of its bound. */
  worst: number | null;
  failures: string[];
}

export interface ConformanceOptions {
  /** Kernels whose names contain it; all by default. */
  pattern?: string;
  /** All variants of each kernel, which takes minutes. */
  whole?: boolean;
  onReport?: (report: KernelReport) => void;
  signal?: AbortSignal;
}

export interface ConformanceResult {
  passed: number;
  failed: number;
  /** The device, its driver, and the library's version. */
  device: string;
}
