/** A chat with one model, in plain TypeScript. The page has `<pre id="out">` and `<form id="form"><input id="text"></form>`. */
import { DeviceLostError, FerrumError, Model, type ChatMessage } from 'ferrum-wgpu';

const out = document.getElementById('out')!;
const form = document.getElementById('form') as HTMLFormElement;
const text = document.getElementById('text') as HTMLInputElement;
const messages: ChatMessage[] = [{ role: 'system', content: 'You answer in one sentence.' }];

const source = 'bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M';
const fit = await Model.fits(source, { context: 2048 });
if (!fit.fits) throw new Error(fit.reasons.join('; '));

const model = await Model.load(source, {
  context: 2048,
  onProgress: ({ stage, loaded, total }) => { out.textContent = `${stage}: ${Math.round(100 * loaded / total)} %`; },
});
out.textContent = '';

form.onsubmit = async (event) => {
  event.preventDefault();
  messages.push({ role: 'user', content: text.value });
  text.value = '';
  const stop = new AbortController();
  const escape = (event: KeyboardEvent) => { if (event.key === 'Escape') stop.abort(); };
  addEventListener('keydown', escape);
  let answer = '';
  try {
    const stream = await model.chat.completions.create({ messages, stream: true }, { signal: stop.signal });
    for await (const chunk of stream) {
      const piece = chunk.choices[0]?.delta.content ?? '';
      answer += piece;
      out.append(piece);
    }
  } catch (error) {
    if (error instanceof DeviceLostError) out.append('\nThe GPU was lost; please ask again.');
    else if (error instanceof FerrumError) out.append(`\n${error.code}: ${error.message}`);
    else if (!stop.signal.aborted) throw error;
  } finally {
    removeEventListener('keydown', escape);
  }
  if (answer) messages.push({ role: 'assistant', content: answer });
  else messages.pop();
  out.append('\n');
};
