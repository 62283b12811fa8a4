import { useChat } from '@ai-sdk/react';
import { DefaultChatTransport, type FileUIPart, type UIMessage } from 'ai';
import { useEffect, useMemo, useRef, useState, type RefObject } from 'react';
import { headers, words, type Model } from './api';
import { Message } from './Message';

interface Props {
  id: string;
  initial: UIMessage[];
  models: Model[];
  input: RefObject<HTMLTextAreaElement | null>;
  say: (text: string) => void;
  finished: () => void;
}

export function Chat({ id, initial, models, input, say, finished }: Props) {
  const [text, setText] = useState('');
  const [files, setFiles] = useState<FileUIPart[]>([]);
  const [over, setOver] = useState(false);
  const [model, setModel] = useState('');
  const chosen = useRef('');
  chosen.current = model;
  const picker = useRef<HTMLInputElement>(null);
  const end = useRef<HTMLDivElement>(null);

  const transport = useMemo(() => new DefaultChatTransport({
    api: 'chat/agent-stream',
    headers,
    body: () => (chosen.current ? { model_id: Number(chosen.current) } : {}),
  }), []);
  const { messages, sendMessage, status, stop, error, clearError } = useChat({
    id,
    messages: initial,
    transport,
    onFinish: ({ isAbort }) => { say(isAbort ? 'Answer stopped.' : 'Answer finished.'); finished(); },
    onError: (e) => say(words(e)),
  });
  const busy = status === 'submitted' || status === 'streaming';

  useEffect(() => { input.current?.focus(); }, [input]);
  useEffect(() => { end.current?.scrollIntoView({ block: 'end' }); }, [messages, status]);
  useEffect(() => {
    const escape = (e: KeyboardEvent) => { if (e.key === 'Escape' && busy) void stop(); };
    window.addEventListener('keydown', escape);
    return () => window.removeEventListener('keydown', escape);
  }, [busy, stop]);

  const take = (given: Iterable<File>) => {
    const pictures = [...given].filter((f) => f.type.startsWith('image/'));
    if (pictures.length === 0) return say('Only pictures can be sent along; documents go to the tasks.');
    for (const file of pictures) {
      const reader = new FileReader();
      reader.onload = () => {
        setFiles((all) => [...all, { type: 'file', mediaType: file.type, filename: file.name, url: reader.result as string }]);
        say(`${file.name} is attached.`);
      };
      reader.readAsDataURL(file);
    }
  };
  const send = () => {
    if (busy || (!text.trim() && files.length === 0)) return;
    clearError();
    say('Answering.');
    void sendMessage({ text: text.trim() || 'Describe this picture.', files });
    setText('');
    setFiles([]);
  };

  return (
    <div className={over ? 'chat over' : 'chat'}
      onDragOver={(e) => { if (e.dataTransfer.types.includes('Files')) { e.preventDefault(); setOver(true); } }}
      onDragLeave={(e) => { if (!e.currentTarget.contains(e.relatedTarget as Node | null)) setOver(false); }}
      onDrop={(e) => { e.preventDefault(); setOver(false); take(e.dataTransfer.files); }}>
      <section className="messages" role="log" aria-label="Messages" aria-busy={busy} tabIndex={0}>
        {messages.length === 0 && (
          <div className="empty">
            <p>Ask something. It stays on this computer when the built-in model answers.</p>
            <p className="quiet">Pictures can be dropped, pasted or picked.</p>
          </div>
        )}
        {messages.map((m, i) => <Message key={m.id} message={m} streaming={status === 'streaming' && i === messages.length - 1 && m.role === 'assistant'} />)}
        {status === 'submitted' && <p className="quiet waiting">Waiting for the first words…</p>}
        {error && <p className="error" role="alert">{words(error)}</p>}
        <div ref={end} />
      </section>
      <form className="composer" onSubmit={(e) => { e.preventDefault(); send(); }}>
        {files.length > 0 && (
          <ul className="attached" aria-label="Pictures to send">
            {files.map((f, i) => (
              <li key={f.url.slice(-40) + i}>
                <img src={f.url} alt={f.filename ?? 'picture'} />
                <button type="button" className="icon" aria-label={`Remove ${f.filename ?? 'picture'}`}
                  onClick={() => setFiles((all) => all.filter((g) => g !== f))}><span aria-hidden="true">✕</span></button>
              </li>
            ))}
          </ul>
        )}
        <label className="unseen" htmlFor="question">Your question</label>
        <textarea id="question" ref={input} rows={2} value={text} placeholder="Ask something…" aria-describedby="keys"
          onChange={(e) => setText(e.target.value)}
          onPaste={(e) => { if (e.clipboardData.files.length > 0) { e.preventDefault(); take(e.clipboardData.files); } }}
          onKeyDown={(e) => { if (e.key === 'Enter' && !e.shiftKey && !e.nativeEvent.isComposing) { e.preventDefault(); send(); } }} />
        <div className="row">
          <button type="button" onClick={() => picker.current?.click()}>Add picture</button>
          <input ref={picker} className="unseen" type="file" accept="image/*" multiple tabIndex={-1} aria-label="Pictures"
            onChange={(e) => { take(e.target.files ?? []); e.target.value = ''; }} />
          <label htmlFor="model">Model</label>
          <select id="model" value={model} onChange={(e) => setModel(e.target.value)}>
            <option value="">as assigned</option>
            {models.filter((m) => m.present && m.capabilities.text !== false).map((m) => <option key={m.id} value={m.id}>{m.name}</option>)}
          </select>
          <span id="keys" className="quiet grow">Enter sends, Shift+Enter breaks the line{busy ? ', Escape stops' : ''}</span>
          {busy ? <button type="button" className="stop" onClick={() => void stop()}>Stop</button>
            : <button type="submit" className="primary" disabled={!text.trim() && files.length === 0}>Send</button>}
        </div>
      </form>
    </div>
  );
}
