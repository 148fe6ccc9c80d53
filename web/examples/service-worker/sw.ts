/** A service worker that passes requests of `/v1/…` on to a page with a model, over a channel for each request. */
interface ExtendableEvent extends Event {
  waitUntil(work: Promise<unknown>): void;
}
interface FetchEvent extends ExtendableEvent {
  readonly request: Request;
  respondWith(response: Promise<Response>): void;
}
interface Client {
  postMessage(message: unknown, transfer: Transferable[]): void;
}
const worker = self as unknown as {
  clients: { matchAll(options: { type: 'window' }): Promise<Client[]>; claim(): Promise<void> };
  addEventListener(type: 'activate', listener: (event: ExtendableEvent) => void): void;
  addEventListener(type: 'fetch', listener: (event: FetchEvent) => void): void;
};

worker.addEventListener('activate', (event) => event.waitUntil(worker.clients.claim()));

worker.addEventListener('fetch', (event) => {
  const { request } = event;
  if (new URL(request.url).pathname.startsWith('/v1/')) event.respondWith(pass(request));
});

/** Sends a request to the page that answers first. */
async function pass(request: Request): Promise<Response> {
  const body = request.method === 'POST' ? await request.text() : undefined;
  const pages = await worker.clients.matchAll({ type: 'window' });
  if (pages.length === 0) return Response.json({ error: { message: 'no page has a model' } }, { status: 503 });
  return new Promise((resolve) => {
    for (const page of pages) {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = ({ data }: MessageEvent<{ status: number; headers: [string, string][]; body: ReadableStream }>) =>
        resolve(new Response(data.body, data));
      page.postMessage({ api: { url: request.url, method: request.method, body } }, [port2]);
    }
  });
}
