/** Results of checks of this browser's GPU, kept by device, kernels and version of the browser. */
import type { DeviceCheck } from './types.js';

const DATABASE = 'ferrum-wgpu';
const STORE = 'checks';

function settled<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Runs a request in the database. Private windows may have none: then nothing is kept. */
async function run<T>(mode: IDBTransactionMode, make: (store: IDBObjectStore) => IDBRequest<T>): Promise<T | undefined> {
  try {
    const open = indexedDB.open(DATABASE, 1);
    open.onupgradeneeded = () => open.result.createObjectStore(STORE);
    const database = await settled(open);
    try {
      return await settled(make(database.transaction(STORE, mode).objectStore(STORE)));
    } finally {
      database.close();
    }
  } catch {
    return undefined;
  }
}

/** Returns the key of a check in this browser. */
function inBrowser(key: string): string {
  return `${navigator.userAgent}; ${key}`;
}

/** Returns a result that was kept. */
export function kept(key: string): Promise<DeviceCheck | undefined> {
  return run('readonly', (store) => store.get(inBrowser(key)));
}

/** Keeps a result. */
export async function keep(key: string, check: DeviceCheck): Promise<void> {
  await run('readwrite', (store) => store.put(check, inBrowser(key)));
}

/** Forgets all results. */
export async function forget(): Promise<void> {
  await run('readwrite', (store) => store.clear());
}
