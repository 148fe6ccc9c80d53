/** A chat as a React component. */
import { useEffect, useRef, useState, type FormEvent } from 'react';
import { Model, type ChatMessage, type Progress } from 'ferrum-wgpu';

/** Loads a model for as long as the component is there. */
export function useModel(source: string, context = 2048) {
  const [model, setModel] = useState<Model>();
  const [progress, setProgress] = useState<Progress>();
  const [error, setError] = useState<Error>();
  useEffect(() => {
    const controller = new AbortController();
    const loading = Model.load(source, { context, onProgress: setProgress, signal: controller.signal });
    loading.then(setModel, (error: Error) => { if (!controller.signal.aborted) setError(error); });
    return () => {
      setModel(undefined);
      controller.abort();
      // A model that was loaded already is unloaded.
      loading.then((model) => model.unload(), () => undefined);
    };
  }, [source, context]);
  return { model, progress, error };
}

export function Chat({ source }: { source: string }) {
  const { model, progress, error } = useModel(source);
  const [messages, setMessages] = useState<ChatMessage[]>([]);
  const [reply, setReply] = useState<string>();
  const [text, setText] = useState('');
  const stop = useRef<AbortController>(undefined);

  async function send(event: FormEvent) {
    event.preventDefault();
    if (!model || reply !== undefined) return;
    const asked: ChatMessage[] = [...messages, { role: 'user', content: text }];
    setMessages(asked);
    setText('');
    setReply('');
    stop.current = new AbortController();
    let answer = '';
    try {
      const request = { messages: asked, stream: true as const };
      for await (const chunk of await model.chat.completions.create(request, { signal: stop.current.signal })) {
        answer += chunk.choices[0]?.delta.content ?? '';
        setReply(answer);
      }
    } catch (error) {
      if (!stop.current.signal.aborted) answer ||= String(error);
    }
    setMessages([...asked, { role: 'assistant', content: answer }]);
    setReply(undefined);
  }

  if (error) return <p role="alert">{error.message}</p>;
  if (!model) return <progress value={progress?.loaded ?? 0} max={progress?.total || 1} aria-label={progress?.stage} />;
  return (
    <section>
      {messages.map(({ role, content }, i) => <p key={i}><b>{role}</b> {String(content)}</p>)}
      {reply !== undefined && <p><b>assistant</b> {reply} <button onClick={() => stop.current?.abort()}>Stop</button></p>}
      <form onSubmit={send}>
        <input value={text} onChange={(event) => setText(event.target.value)} aria-label="Message" />
      </form>
    </section>
  );
}
