/** Names of files on Hugging Face. */
import { DownloadError, OptionError } from './errors.js';

export const HUB = 'https://huggingface.co';
const DEFAULT_QUANT = 'Q4_K_M';

/** A file to download. */
export interface RemoteFile {
  url: string;
  size?: number | undefined;
  sha256?: string | undefined;
}

interface Listed {
  type: string;
  path: string;
  size: number;
  lfs?: { oid: string; size: number };
}

interface Place {
  hub: string;
  repository: string;
  revision: string;
}

/** Returns the files that a URL or a name stands for: all parts of a split model, else one. */
export async function resolve(
  source: string,
  options: { hub?: string | undefined; headers?: Record<string, string> | undefined; signal: AbortSignal },
): Promise<RemoteFile[]> {
  const hub = (options.hub ?? HUB).replace(/\/$/, '');
  // A name has no scheme and is no path.
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(source) || /^(\/|\.\.?\/|blob:)/.test(source)) {
    const url = new URL(source, globalThis.location?.href).href;
    const match = /^(https?:\/\/[^/]+)\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/([^?#]+)/.exec(url);
    if (!match || (match[1] !== HUB && match[1] !== hub)) return parts(url).map((url) => ({ url }));
    const [, base, repository, revision, path] = match as unknown as [string, string, string, string, string];
    const place = { hub: base, repository, revision };
    const wanted = new Set(parts(decodeURIComponent(path)));
    // Without the list there are no hashes, and the download says what is wrong.
    const listed = await list(place, options).catch((error) => {
      if (options.signal.aborted) throw error;
      return [];
    });
    const found = listed.filter((file) => wanted.has(file.path));
    return found.length === wanted.size ? found.map((file) => remote(place, file)) : parts(url).map((url) => ({ url }));
  }
  const match = /^([\w.-]+\/[\w.-]+)(?::([\w.-]+))?(?:\/(.+\.gguf))?$/i.exec(source);
  if (!match || (match[2] && match[3])) {
    throw new OptionError('option', `${source} is no URL and no name as org/repo, org/repo:QUANT or org/repo/file.gguf`);
  }
  const place = { hub, repository: match[1]!, revision: 'main' };
  const files = (await list(place, options)).filter(({ path }) => /\.gguf$/i.test(path) && !/mmproj/i.test(path));
  const chosen = choose(files, match[3], match[2]);
  return chosen.map((file) => remote(place, file));
}

/** Returns the URLs of all parts of a split model, else the one. */
function parts(url: string): string[] {
  const match = /^(.*-)(\d{5})(-of-)(\d{5})(\.gguf.*)$/i.exec(url);
  if (!match || match[2] !== '00001') return [url];
  const [, begin, , of, count, end] = match;
  return Array.from({ length: Number(count) }, (_, i) => `${begin}${String(i + 1).padStart(5, '0')}${of}${count}${end}`);
}

async function list(place: Place, options: { headers?: Record<string, string> | undefined; signal: AbortSignal }) {
  const url = `${place.hub}/api/models/${place.repository}/tree/${place.revision}?recursive=true`;
  let response;
  try {
    response = await fetch(url, { headers: options.headers ?? {}, signal: options.signal });
  } catch (error) {
    if (options.signal.aborted) throw error;
    throw new DownloadError(`${place.hub} does not answer`);
  }
  if (!response.ok) throw new DownloadError(`${place.repository}: ${place.hub} answers ${response.status}`, response.status);
  return (await response.json() as Listed[]).filter((file) => file.type === 'file');
}

/** Returns the file of a path or of a quantisation, with all its parts. */
function choose(files: Listed[], path: string | undefined, quant: string | undefined): Listed[] {
  const whole = files.filter((file) => !/-\d{5}-of-\d{5}\.gguf$/i.test(file.path) || /-00001-of-/.test(file.path));
  const of = (quant: string) => whole.filter((file) => quantOf(file.path).toLowerCase() === quant.toLowerCase());
  let found = path ? whole.filter((file) => file.path === path) : of(quant ?? DEFAULT_QUANT);
  if (!path && !quant && found.length === 0 && whole.length === 1) found = whole;
  const names = whole.map((file) => file.path).join(', ') || 'none';
  const wanted = path ?? quant ?? DEFAULT_QUANT;
  if (found.length !== 1) {
    throw new OptionError('option', `${found.length || 'no'} GGUF files match ${wanted}; there are: ${names}`);
  }
  const all = new Set(parts(found[0]!.path));
  return files.filter((file) => all.has(file.path));
}

/** Returns the quantisation in a file's name: what follows the last dash or dot of its stem, such as `Q4_K_M` or `UD-Q2_K_XL`. */
function quantOf(path: string): string {
  const stem = path.replace(/(-\d{5}-of-\d{5})?\.gguf$/i, '');
  return /(?:^|[-./])((?:UD-)?[^-./]*)$/.exec(stem)?.[1] ?? stem;
}

function remote({ hub, repository, revision }: Place, file: Listed): RemoteFile {
  const path = file.path.split('/').map(encodeURIComponent).join('/');
  return {
    url: `${hub}/${repository}/resolve/${revision}/${path}`,
    size: file.lfs?.size ?? file.size,
    sha256: file.lfs?.oid,
  };
}
