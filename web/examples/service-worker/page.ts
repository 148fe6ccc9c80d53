/** The page with the model: answers what the service worker passes on. */
import { Model } from 'ferrum-wgpu';
import { answer } from './fetch-handler.js';

const model = await Model.load('bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M', { context: 2048 });
await navigator.serviceWorker.register('sw.js');

navigator.serviceWorker.addEventListener('message', async ({ data, ports }) => {
  const port = ports[0];
  if (!data.api || !port) return;
  const { url, method, body } = data.api as { url: string; method: string; body?: string };
  const init = body === undefined ? { method } : { method, body };
  const response = await answer(model, new Request(url, init)) ?? new Response('not found', { status: 404 });
  const stream = response.body!;
  port.postMessage({ status: response.status, headers: [...response.headers], body: stream }, [stream]);
});
