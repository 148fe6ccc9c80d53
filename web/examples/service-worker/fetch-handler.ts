/** OpenAI's HTTP API for a page's own requests: any client of it can be given a model in the browser.
 *
 * A service worker has no WebGPU in all browsers and is ended when it is idle. The model therefore lives in the page, and
 * this handler answers `fetch` there; `sw.ts` passes requests of other pages on to it. */
import { FerrumError, RequestError, type ChatRequest, type CompletionRequest, type Model } from 'ferrum-wgpu';

/** Returns a `fetch` that answers `/v1/…` from a model, and sends other requests to the network. */
export function makeFetch(model: Model): typeof fetch {
  return async (input, init) => {
    const request = new Request(input, init);
    return (await answer(model, request)) ?? fetch(request);
  };
}

/** Returns the response to a request of the API, or nothing for other requests. */
export async function answer(model: Model, request: Request): Promise<Response | undefined> {
  const { pathname } = new URL(request.url);
  const endpoint = /\/v1\/(chat\/completions|completions|models)$/.exec(pathname)?.[1];
  if (!endpoint) return undefined;
  if (endpoint === 'models') {
    return Response.json({ object: 'list', data: [{ id: model.name, object: 'model', created: 0, owned_by: 'browser' }] });
  }
  try {
    const body: unknown = await request.json();
    const { signal } = request;
    const chat = endpoint === 'chat/completions';
    const reply = chat
      ? await model.chat.completions.create(body as ChatRequest, { signal })
      : await model.completions.create(body as CompletionRequest, { signal });
    return Symbol.asyncIterator in reply ? eventStream(reply) : Response.json(reply);
  } catch (error) {
    return errorResponse(error);
  }
}

/** Returns chunks as server-sent events. */
function eventStream(chunks: AsyncIterable<unknown>): Response {
  const encoder = new TextEncoder();
  const iterator = chunks[Symbol.asyncIterator]();
  const send = (data: string) => encoder.encode(`data: ${data}\n\n`);
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        const { done, value } = await iterator.next();
        controller.enqueue(send(done ? '[DONE]' : JSON.stringify(value)));
        if (done) controller.close();
      } catch (error) {
        controller.enqueue(send(JSON.stringify(errorBody(error))));
        controller.close();
      }
    },
    async cancel() {
      await iterator.return?.();
    },
  });
  return new Response(body, { headers: { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache' } });
}

function errorBody(error: unknown) {
  const message = error instanceof Error ? error.message : String(error);
  const { type = 'server_error', param, reason } = error instanceof RequestError ? error : {};
  return { error: { message, type, param: param ?? null, code: reason ?? null } };
}

function errorResponse(error: unknown): Response {
  const status = error instanceof RequestError ? error.status : error instanceof FerrumError ? 503 : 400;
  return Response.json(errorBody(error), { status });
}
