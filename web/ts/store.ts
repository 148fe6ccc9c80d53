/** Model files in the origin private file system (OPFS): downloaded by ranges, continued after a reload, checked.
 *
 * A file has three entries in the folder: its data; a record (JSON); and while it is incomplete, the bytes done of each segment,
 * as 32-bit numbers. Data are flushed before they are recorded. Downloads need a worker. */
import { DownloadError, HashError, StorageError } from './errors.js';
import type { RemoteFile } from './hub.js';
import type { Progress, StoredFile } from './types.js';

const FOLDER = 'ferrum-wgpu';
/** The bytes that one request asks for. */
const SEGMENT = 16 << 20;
/** The bytes after which progress is recorded. */
const RECORDED = 4 << 20;
/** Failures without any progress between, after which a download fails. */
const TRIES = 6;
/** The longest wait before the next try, in milliseconds. */
const LONGEST_WAIT = 8000;
/** Free space that is left to the page's other data. */
const SPARE = 16 << 20;

/** Exists in workers only, and is not in TypeScript's library of pages. */
interface SyncAccessHandle {
  read(buffer: Uint8Array, options: { at: number }): number;
  write(buffer: Uint8Array, options: { at: number }): number;
  truncate(size: number): void;
  getSize(): number;
  flush(): void;
  close(): void;
}

interface Record {
  url: string;
  size: number;
  etag?: string | undefined;
  sha256?: string | undefined;
  complete: boolean;
}

/** A hash that takes bytes piece by piece. */
export interface Hash {
  update(bytes: Uint8Array): void;
  finish(): string;
}

export interface DownloadContext {
  headers?: globalThis.Record<string, string> | undefined;
  connections?: number | undefined;
  refresh?: 'auto' | 'never' | undefined;
  signal: AbortSignal;
  /** Returns a new SHA-256. */
  hash(): Hash;
  progress(progress: Progress): void;
  /** What was read of the file before. */
  begun?: Beginning | undefined;
}

/** What a server says of a file. */
interface Remote {
  size: number;
  etag?: string | undefined;
  sha256?: string | undefined;
  ranges: boolean;
}

/** The file at the server is not the one that was begun. */
class Changed extends Error {}

async function folder(): Promise<FileSystemDirectoryHandle> {
  const storage = globalThis.navigator?.storage;
  if (!storage?.getDirectory) {
    throw new StorageError('storage', 'this page has no storage: it needs https or localhost, and no private window');
  }
  return (await storage.getDirectory()).getDirectoryHandle(FOLDER, { create: true });
}

async function keyOf(url: string): Promise<string> {
  const hash = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(url));
  return Array.from(new Uint8Array(hash, 0, 16), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

async function entry(at: FileSystemDirectoryHandle, name: string): Promise<FileSystemFileHandle | undefined> {
  return at.getFileHandle(name).catch(() => undefined);
}

async function readRecord(at: FileSystemDirectoryHandle, key: string): Promise<Record | undefined> {
  try {
    return JSON.parse(await (await (await entry(at, `${key}.json`))!.getFile()).text());
  } catch {
    return undefined;
  }
}

async function open(at: FileSystemDirectoryHandle, name: string): Promise<SyncAccessHandle> {
  const handle = await at.getFileHandle(name, { create: true });
  return (handle as unknown as { createSyncAccessHandle(): Promise<SyncAccessHandle> }).createSyncAccessHandle();
}

async function writeRecord(at: FileSystemDirectoryHandle, key: string, record: Record): Promise<void> {
  const handle = await open(at, `${key}.json`);
  const bytes = new TextEncoder().encode(JSON.stringify(record));
  handle.truncate(0);
  handle.write(bytes, { at: 0 });
  handle.flush();
  handle.close();
}

async function forget(at: FileSystemDirectoryHandle, key: string): Promise<void> {
  for (const ending of ['json', 'part', 'gguf']) await at.removeEntry(`${key}.${ending}`).catch(() => undefined);
}

/** Returns all stored files, complete or not. */
export async function list(): Promise<StoredFile[]> {
  const at = await folder();
  const found: StoredFile[] = [];
  for await (const name of at.keys()) {
    const key = /^(.*)\.json$/.exec(name)?.[1];
    const record = key && await readRecord(at, key);
    if (!key || !record) continue;
    const { url, size, complete, sha256, etag } = record;
    let bytes = complete ? size : 0;
    if (!complete) {
      const part = await (await entry(at, `${key}.part`))?.getFile();
      if (part) bytes = new Uint32Array(await part.slice(0, part.size & ~3).arrayBuffer()).reduce((sum, n) => sum + n, 0);
    }
    found.push({ url, size, bytes, complete, sha256, etag });
  }
  return found;
}

/** Deletes a stored file. */
export async function remove(url: string): Promise<void> {
  await forget(await folder(), await keyOf(url));
}

/** Returns the bytes of a file of `size` bytes that are not stored. */
export async function missing(url: string, size: number): Promise<number> {
  const found = await list().catch(() => []);
  return Math.max(0, size - (found.find((file) => file.url === url)?.bytes ?? 0));
}

/** Returns a stored file, if it is complete. */
export async function stored(url: string): Promise<File | undefined> {
  const at = await folder();
  const key = await keyOf(url);
  const record = await readRecord(at, key);
  const file = record?.complete ? await (await entry(at, `${key}.gguf`))?.getFile() : undefined;
  return file?.size === record?.size ? file : undefined;
}

/** Returns a file's length and identity from its server. */
export async function probe(remote: RemoteFile, { headers, signal }: Pick<DownloadContext, 'headers' | 'signal'>): Promise<Remote> {
  const response = await fetchRange(remote.url, 0, 1, headers, signal);
  await response.body?.cancel();
  const size = response.status === 206 ? totalOf(response) : Number(response.headers.get('content-length')) || undefined;
  const found = size ?? remote.size;
  if (found === undefined) throw new DownloadError(`${remote.url}: the server does not tell the file's size`);
  const linked = /^"?([0-9a-f]{64})"?$/i.exec(response.headers.get('x-linked-etag') ?? '')?.[1];
  return { size: found, etag: etagOf(response), sha256: remote.sha256 ?? linked, ranges: response.status === 206 };
}

function etagOf(response: Response): string | undefined {
  return response.headers.get('etag') ?? undefined;
}

function totalOf(response: Response): number | undefined {
  const total = /\/(\d+)$/.exec(response.headers.get('content-range') ?? '')?.[1];
  return total === undefined ? undefined : Number(total);
}

async function fetchRange(url: string, begin: number, end: number, headers = {}, signal: AbortSignal): Promise<Response> {
  let response;
  try {
    // The browser's cache would hold the file a second time.
    response = await fetch(url, { headers: { ...headers, Range: `bytes=${begin}-${end - 1}` }, signal, cache: 'no-store' });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new DownloadError(`${url}: the server does not answer`);
  }
  if (!response.ok) throw new DownloadError(`${url}: the server answers ${response.status}`, response.status);
  return response;
}

/** A file that is read by requests. It keeps what was read from the beginning on, which a download then need not request. */
export class Beginning {
  #bytes = new Uint8Array();
  #etags = new Set<string | undefined>();

  constructor(readonly url: string, readonly headers: {} | undefined, readonly signal: AbortSignal) {}

  async read(begin: number, end: number): Promise<Uint8Array> {
    const have = this.#bytes.length;
    if (begin > have) return (await readRange(this.url, begin, end, this.headers, this.signal)).bytes;
    if (end > have) {
      const { bytes, etag } = await readRange(this.url, have, end, this.headers, this.signal);
      // Another read may have come first.
      if (this.#bytes.length === have) {
        const longer = new Uint8Array(end);
        longer.set(this.#bytes);
        longer.set(bytes, have);
        this.#bytes = longer;
        this.#etags.add(etag);
      }
    }
    return this.#bytes.slice(begin, end);
  }

  /** Returns what was read, if it is of the file that the server has now. */
  of({ etag }: Remote): Uint8Array {
    return this.#etags.size === 1 && this.#etags.has(etag) ? this.#bytes : new Uint8Array();
  }
}

async function readRange(
  url: string, begin: number, end: number, headers: {} | undefined, signal: AbortSignal,
): Promise<{ bytes: Uint8Array; etag: string | undefined }> {
  return withRetries(signal, async () => {
    const response = await fetchRange(url, begin, end, headers, signal);
    // A server without ranges sends all, from the beginning on.
    let skip = response.status === 206 ? 0 : begin;
    const bytes = new Uint8Array(end - begin);
    let at = 0;
    const reader = response.body!.getReader();
    while (at < bytes.length) {
      const { done, value } = await reader.read().catch((error) => {
        throw signal.aborted ? error : new DownloadError(`${url}: the connection broke`);
      });
      if (done) throw new DownloadError(`${url}: the server sent too little`);
      const from = Math.min(skip, value.length);
      skip -= from;
      const part = value.subarray(from, from + bytes.length - at);
      bytes.set(part, at);
      at += part.length;
    }
    await reader.cancel();
    return { bytes, etag: etagOf(response) };
  });
}

/** Checks that there is room for a file before it is downloaded. */
export async function checkSpace(bytes: number): Promise<void> {
  const { quota, usage } = await navigator.storage.estimate();
  if (quota === undefined || usage === undefined) return;
  const free = Math.max(0, quota - usage);
  if (bytes + SPARE > free) {
    const mib = (bytes: number) => `${Math.ceil(bytes / 2 ** 20)} MiB`;
    throw new StorageError('storage', `the browser's storage has ${mib(free)} free, and the file needs ${mib(bytes + SPARE)}`);
  }
}

/** Returns a file of the store, which is downloaded if it is not there or has changed. */
export async function download(remote: RemoteFile, context: DownloadContext): Promise<File> {
  const key = await keyOf(remote.url);
  const at = await folder();
  // Another tab may download the same file: this one waits, and finds it.
  return navigator.locks.request(`${FOLDER}/${key}`, { signal: context.signal }, async () => {
    const known = await readRecord(at, key);
    const have = known?.complete ? await stored(remote.url) : undefined;
    if (have && (context.refresh === 'never' || (remote.sha256 && remote.sha256 === known?.sha256))) return have;
    let found: Remote;
    try {
      found = await withRetries(context.signal, () => probe(remote, context), have ? 1 : TRIES);
    } catch (error) {
      // Without a connection, what is stored is used.
      if (have && error instanceof DownloadError && error.status === undefined) return have;
      throw error;
    }
    if (have && same(known!, found)) return have;
    for (let changes = 0; ; changes++) {
      try {
        return await fill(at, key, remote, found, context);
      } catch (error) {
        if (!(error instanceof Changed) || changes > 1) throw error;
        await forget(at, key);
        found = await probe(remote, context);
      }
    }
  });
}

function same(record: Record, remote: Remote): boolean {
  return record.size === remote.size && record.etag === remote.etag
    && (!remote.sha256 || !record.sha256 || remote.sha256 === record.sha256);
}

async function fill(
  at: FileSystemDirectoryHandle, key: string, remote: RemoteFile, found: Remote, context: DownloadContext,
): Promise<File> {
  const before = await readRecord(at, key);
  const { url } = remote;
  const { size, etag, sha256 } = found;
  if (!before || before.complete || !same(before, found)) {
    await forget(at, key);
    await checkSpace(size);
    await writeRecord(at, key, { url, size, etag, sha256, complete: false });
  }
  // Of the data and of the bytes done of each segment.
  const data = await open(at, `${key}.gguf`);
  const part = await open(at, `${key}.part`).catch((error) => {
    data.close();
    throw error;
  });
  let digest: string | undefined;
  try {
    const download = new Download(data, part, url, found, context);
    digest = await download.run();
  } catch (error) {
    if (error instanceof DOMException && error.name === 'QuotaExceededError') {
      throw new StorageError('storage', 'the browser\'s storage is full');
    }
    throw error;
  } finally {
    data.close();
    part.close();
  }
  if (sha256 && digest !== sha256.toLowerCase()) {
    await forget(at, key);
    throw new HashError('hash', `${url} has the SHA-256 ${digest}, and should have ${sha256}`);
  }
  await writeRecord(at, key, { url, size, etag, sha256, complete: true });
  await at.removeEntry(`${key}.part`).catch(() => undefined);
  return (await entry(at, `${key}.gguf`))!.getFile();
}

/** A download in progress. */
class Download {
  /** The bytes done of each segment. */
  readonly #done: Uint32Array;
  readonly #segment: number;
  #next = 0;
  #received: number;
  readonly #hash: Hash | undefined;
  #hashed = 0;

  constructor(
    readonly data: SyncAccessHandle,
    readonly part: SyncAccessHandle,
    readonly url: string,
    readonly remote: Remote,
    readonly context: DownloadContext,
  ) {
    const { size, ranges } = remote;
    // Without ranges it is one segment from the beginning.
    this.#segment = ranges ? SEGMENT : Math.max(1, size);
    this.#done = new Uint32Array(Math.max(1, Math.ceil(size / this.#segment)));
    if (data.getSize() !== size) {
      part.truncate(0);
      data.truncate(size);
    } else if (ranges && part.getSize() === this.#done.byteLength) {
      part.read(new Uint8Array(this.#done.buffer), { at: 0 });
    }
    this.#done.forEach((done, i) => { if (done > this.#length(i)) this.#done[i] = 0; });
    if (ranges && context.begun) this.#keep(context.begun.of(remote));
    this.#received = this.#done.reduce((sum, n) => sum + n, 0);
    this.#hash = remote.sha256 ? context.hash() : undefined;
  }

  /** Stores the beginning of the file, where nothing of it is stored. */
  #keep(bytes: Uint8Array): void {
    for (let i = 0; i * this.#segment < bytes.length; i++) {
      const at = i * this.#segment;
      const part = bytes.subarray(at, at + this.#length(i));
      if (part.length <= this.#done[i]!) continue;
      this.data.write(part, { at });
      this.#done[i] = part.length;
      this.#record(i);
    }
  }

  #length(segment: number): number {
    return Math.min(this.#segment, this.remote.size - segment * this.#segment);
  }

  /** Downloads what is missing. Returns the SHA-256, if there is one to compare with. */
  async run(): Promise<string | undefined> {
    const { signal, connections = 4 } = this.context;
    const stop = new AbortController();
    const either = AbortSignal.any([signal, stop.signal]);
    this.#tell();
    const one = async () => {
      while (this.#next < this.#done.length) await this.#fetchSegment(this.#next++, either);
    };
    try {
      await Promise.all(Array.from({ length: this.remote.ranges ? Math.max(1, connections) : 1 }, one));
    } catch (error) {
      // The other connections end before the file is closed.
      stop.abort();
      throw signal.aborted ? signal.reason : error;
    }
    await this.#hashPrefix(true);
    return this.#hash?.finish();
  }

  async #fetchSegment(index: number, signal: AbortSignal): Promise<void> {
    const { remote, url } = this;
    const begin = index * this.#segment;
    const length = this.#length(index);
    await withRetries(signal, async () => {
      if (!remote.ranges) this.#restart(index);
      if (this.#done[index]! >= length) return;
      const from = begin + this.#done[index]!;
      const response = await fetchRange(url, from, begin + length, this.context.headers, signal);
      const total = totalOf(response);
      const etag = etagOf(response);
      const changed = (total !== undefined && total !== remote.size) || etag !== remote.etag;
      if (changed || (remote.ranges && response.status !== 206)) {
        await response.body?.cancel();
        throw new Changed(`${url} has changed while it was downloaded`);
      }
      const reader = response.body!.getReader();
      let recorded = this.#done[index]!;
      try {
        for (;;) {
          const { done, value } = await reader.read().catch((error) => {
            if (signal.aborted) throw error;
            throw new DownloadError(`${url}: the connection broke`);
          });
          if (done) break;
          signal.throwIfAborted();
          const at = this.#done[index]!;
          const bytes = value.subarray(0, length - at);
          this.data.write(bytes, { at: begin + at });
          this.#done[index] = at + bytes.length;
          this.#received += bytes.length;
          if (this.#done[index]! - recorded >= RECORDED || this.#done[index] === length) {
            recorded = this.#done[index]!;
            this.#record(index);
          }
          this.#tell();
        }
      } finally {
        reader.cancel().catch(() => undefined);
        if (this.#done[index]! > recorded && !this.#closed(signal)) this.#record(index);
      }
      if (this.#done[index]! < length) throw new DownloadError(`${url}: the server sent too little`);
    }, TRIES, () => this.#received);
    await this.#hashPrefix(false);
  }

  /** After another connection has failed, the files may be closed. */
  #closed(signal: AbortSignal): boolean {
    return signal.aborted && !this.context.signal.aborted;
  }

  #restart(index: number): void {
    this.#received -= this.#done[index]!;
    this.#done[index] = 0;
  }

  #record(index: number): void {
    this.data.flush();
    this.part.write(new Uint8Array(this.#done.buffer, 4 * index, 4), { at: 4 * index });
    this.part.flush();
  }

  #tell(): void {
    this.context.progress({ stage: 'download', loaded: this.#received, total: this.remote.size });
  }

  /** Hashes what is complete from the beginning on. */
  async #hashPrefix(last: boolean): Promise<void> {
    if (!this.#hash) return;
    let end = 0;
    for (let i = 0; i < this.#done.length && this.#done[i] === this.#length(i); i++) end += this.#done[i]!;
    const buffer = new Uint8Array(1 << 20);
    while (this.#hashed < end) {
      const bytes = buffer.subarray(0, Math.min(buffer.length, end - this.#hashed));
      if (this.data.read(bytes, { at: this.#hashed }) !== bytes.length) {
        throw new StorageError('storage', 'a stored file cannot be read');
      }
      this.#hash.update(bytes);
      this.#hashed += bytes.length;
      if (last) {
        this.context.progress({ stage: 'verify', loaded: this.#hashed, total: this.remote.size });
        if (this.#hashed % (16 << 20) === 0) await new Promise((resolve) => setTimeout(resolve));
        this.context.signal.throwIfAborted();
      }
    }
  }
}

/**
 * Tries again after failures that may pass, with longer and longer waits, `most` times. The count begins anew when `received` has
 * grown since the last failure: a server that sends to one connection has not gone.
 */
async function withRetries<T>(signal: AbortSignal, work: () => Promise<T>, most = TRIES, received = () => 0): Promise<T> {
  let before = received();
  for (let failures = 0; ;) {
    try {
      return await work();
    } catch (error) {
      signal.throwIfAborted();
      const now = received();
      if (now > before) failures = 0;
      before = now;
      if (!(error instanceof DownloadError) || !passing(error.status) || ++failures >= most) throw error;
      await pause(Math.min(LONGEST_WAIT, 100 * 2 ** failures) * (0.5 + Math.random() / 2), signal);
    }
  }
}

function passing(status: number | undefined): boolean {
  return status === undefined || status === 408 || status === 429 || status >= 500;
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => { signal.removeEventListener('abort', stop); resolve(); }, milliseconds);
    const stop = () => { clearTimeout(timer); reject(signal.reason); };
    signal.addEventListener('abort', stop, { once: true });
  });
}
