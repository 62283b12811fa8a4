import { useChat } from '@ai-sdk/react';
import { DefaultChatTransport, type FileUIPart, type UIMessage } from 'ai';
import { useEffect, useMemo, useRef, useState, type RefObject } from 'react';
import { call, fresh, headers, post, send as upload, words, type Attached, type Model } from './api';
import { t } from './i18n';
import { Message } from './Message';

interface Props {
  id: string;
  initial: UIMessage[];
  siblings: Record<string, string[]>;
  running: boolean;
  draft: string;
  models: Model[];
  input: RefObject<HTMLTextAreaElement | null>;
  say: (text: string) => void;
  finished: (id: string) => void;
  reload: (leaf?: string, draft?: string) => void;
}

/** What goes with a question. A document is sent and read when it is attached: `part` is there when that is done. */
interface File_ { id: string; name: string; part?: FileUIPart; far?: number; about?: string; error?: string; gone?: AbortController }
// Pictures that every model's server takes go as they are; everything else is read by the service.
const SEEN = /^image\/(png|jpeg|webp|gif|bmp)$/;

// What was chosen for a chat outlives its view, which is made anew when another branch is shown.
const choices = new Map<string, { model: string; documents: boolean }>();

export function Chat({ id, initial, siblings, running, draft, models, input, say, finished, reload }: Props) {
  const [text, setText] = useState(draft);
  const [files, setFiles] = useState<File_[]>([]);
  const [over, setOver] = useState(false);
  const [model, setModel] = useState(choices.get(id)?.model ?? '');
  const [documents, setDocuments] = useState(choices.get(id)?.documents ?? false);
  const chosen = useRef({ model, documents });
  chosen.current = { model, documents };
  choices.set(id, chosen.current);
  const picker = useRef<HTMLInputElement>(null);
  const log = useRef<HTMLElement>(null);
  const follows = useRef(true);
  const asked = useRef('');

  const transport = useMemo(() => new DefaultChatTransport({
    api: 'chat/agent-stream',
    headers,
    // The service has the chat: what is new goes out, and what it follows.
    prepareSendMessagesRequest: ({ id: chat, messages, trigger, messageId, body }) => ({
      body: {
        id: chat, trigger, messageId, messages: messages.slice(-1), parent_id: messages.at(trigger === 'regenerate-message' ? -1 : -2)?.id ?? null,
        ...(chosen.current.model ? { model_id: Number(chosen.current.model) } : {}), ...(chosen.current.documents ? { documents: true } : {}), ...body,
      },
    }),
  }), []);
  const { messages, sendMessage, setMessages, regenerate, status, stop, error, clearError } = useChat({
    id,
    messages: initial,
    transport,
    resume: running,
    onFinish: ({ isAbort, isError }) => { say(isError ? t('The answer failed.') : isAbort ? t('Answer stopped.') : t('Answer finished.')); finished(id); },
    onError: (e) => {
      if (/stale_parent/.test(e.message)) reload(undefined, asked.current);
      say(words(e));
    },
  });
  const busy = status === 'submitted' || status === 'streaming';

  useEffect(() => { input.current?.focus(); }, [input]);
  useEffect(() => { if (follows.current && log.current) log.current.scrollTop = log.current.scrollHeight; }, [messages, status]);
  const halt = () => { void post(`chat/sessions/${encodeURIComponent(id)}/stop`).catch((e: unknown) => say(words(e))); void stop(); };
  useEffect(() => {
    const escape = (e: KeyboardEvent) => { if (e.key === 'Escape' && busy) halt(); };
    window.addEventListener('keydown', escape);
    return () => window.removeEventListener('keydown', escape);
  });

  const change = (id: string, now: Partial<File_>) => setFiles((all) => all.map((f) => (f.id === id ? { ...f, ...now } : f)));
  const take = (given: Iterable<File>) => {
    for (const file of given) {
      const one: File_ = { id: fresh(), name: file.name, gone: new AbortController() };
      setFiles((all) => [...all, one]);
      const done = (part: FileUIPart, about = '') => { change(one.id, { part, about }); say(t('{name} is attached.', { name: file.name })); };
      const failed = (e: unknown) => { if (!one.gone?.signal.aborted) { change(one.id, { error: words(e) }); say(words(e)); } };
      if (SEEN.test(file.type)) {
        const reader = new FileReader();
        reader.onload = () => done({ type: 'file', mediaType: file.type, filename: file.name, url: reader.result as string });
        reader.onerror = () => failed(reader.error);
        reader.readAsDataURL(file);
      } else {
        const form = new FormData();
        form.append('file', file);
        upload<Attached>('chat/files', form, (far) => change(one.id, { far }), one.gone?.signal)
          .then((a) => done(a.part, [a.pages === 1 ? t('1 page') : t('{n} pages', { n: a.pages }), a.note].filter(Boolean).join('; ')), failed);
      }
    }
  };
  const drop = (file: File_) => { file.gone?.abort(); setFiles((all) => all.filter((f) => f.id !== file.id)); input.current?.focus(); };
  const parts = files.flatMap((f) => (f.part ? [f.part] : []));
  const waits = files.some((f) => !f.part && !f.error);
  const nothing = !text.trim() && parts.length === 0;
  const send = () => {
    if (busy || waits || nothing) return;
    clearError();
    follows.current = true;
    asked.current = text;
    say(t('Answering.'));
    const words_ = text.trim() || t(parts.every((f) => SEEN.test(f.mediaType)) ? 'Describe this picture.' : 'Summarize this document.');
    void sendMessage({ role: 'user', parts: [...parts, { type: 'text', text: words_ }], id: fresh() } as unknown as Parameters<typeof sendMessage>[0]);
    setText('');
    setFiles([]);
  };
  const edit = (message: UIMessage, words_: string) => {
    const kept = message.parts.filter((p) => p.type === 'file');
    setMessages(messages.slice(0, messages.indexOf(message)));
    say(t('Answering.'));
    void sendMessage({ role: 'user', parts: [...kept, { type: 'text', text: words_ }], id: fresh() } as unknown as Parameters<typeof sendMessage>[0], { body: { branch: true } });
  };
  const show = (leaf: string) => { void call('PATCH', `chat/sessions/${encodeURIComponent(id)}`, { head: leaf }).then(() => reload(), (e: unknown) => say(words(e))); };

  return (
    <div className={over ? 'chat over' : 'chat'}
      onDragOver={(e) => { if (e.dataTransfer.types.includes('Files')) { e.preventDefault(); setOver(true); } }}
      onDragLeave={(e) => { if (!e.currentTarget.contains(e.relatedTarget as Node | null)) setOver(false); }}
      onDrop={(e) => { e.preventDefault(); setOver(false); take(e.dataTransfer.files); }}>
      <section ref={log} className="messages" role="log" aria-label={t('Messages')} aria-busy={busy} tabIndex={0}
        onScroll={(e) => { const b = e.currentTarget; follows.current = b.scrollHeight - b.scrollTop - b.clientHeight < 60; }}>
        {messages.length === 0 && (
          <div className="empty">
            <p className="hello">{t('What would you like to know?')}</p>
            <p>{t('Ask something. It stays on this computer when the built-in model answers.')}</p>
            <p className="quiet">{t('Pictures and documents can be dropped, pasted or picked.')}</p>
          </div>
        )}
        {messages.map((m, i) => (
          <Message key={m.id} message={m} streaming={status === 'streaming' && i === messages.length - 1 && m.role === 'assistant'}
            siblings={siblings[m.id] ?? []} busy={busy} edit={(words_) => edit(m, words_)} show={show} say={say}
            again={() => { say(t('Answering.')); void regenerate({ messageId: m.id }); }} />
        ))}
        {status === 'submitted' && <p className="quiet waiting">{t('Waiting for the first words…')}</p>}
        {error && <p className="error" role="alert">{words(error)}</p>}
      </section>
      <form className="composer" onSubmit={(e) => { e.preventDefault(); send(); }}>
        {files.length > 0 && (
          <ul className="attached" aria-label={t('Files to send')}>
            {files.map((f) => (
              <li key={f.id} className={f.error ? 'bad' : ''}>
                {f.part && SEEN.test(f.part.mediaType) ? <img src={f.part.url} alt={f.name} /> : (
                  <span className="document">
                    <strong title={f.name}>{f.name}</strong>
                    {f.error ? <span className="error" role="alert">{f.error}</span>
                      : f.part ? <span className="quiet">{f.about}</span>
                        : <><span className="quiet">{f.far === undefined || f.far < 1 ? t('sending…') : t('being read…')}</span>
                          <progress aria-label={t('Progress of {name}', { name: f.name })} value={f.far === undefined || f.far >= 1 ? undefined : f.far} max={1} /></>}
                  </span>
                )}
                <button type="button" className="icon" aria-label={t('Remove {name}', { name: f.name })} onClick={() => drop(f)}><span aria-hidden="true">✕</span></button>
              </li>
            ))}
          </ul>
        )}
        <label className="unseen" htmlFor="question">{t('Your question')}</label>
        <textarea id="question" ref={input} rows={2} value={text} placeholder={t('Ask something…')} aria-describedby="keys"
          onChange={(e) => setText(e.target.value)}
          onPaste={(e) => { if (e.clipboardData.files.length > 0) { e.preventDefault(); take(e.clipboardData.files); } }}
          onKeyDown={(e) => { if (e.key === 'Enter' && !e.shiftKey && !e.nativeEvent.isComposing) { e.preventDefault(); send(); } }} />
        <div className="row">
          <button type="button" onClick={() => picker.current?.click()}>{t('Add files')}</button>
          <input ref={picker} className="unseen" type="file" multiple tabIndex={-1} aria-label={t('Files')}
            onChange={(e) => { take(e.target.files ?? []); e.target.value = ''; }} />
          <label className="check"><input type="checkbox" checked={documents} onChange={(e) => setDocuments(e.target.checked)} /> {t('Ask my documents')}</label>
          <label htmlFor="model">{t('Model')}</label>
          <select id="model" value={model} onChange={(e) => setModel(e.target.value)}>
            <option value="">{t('as assigned')}</option>
            {models.filter((m) => m.present && m.capabilities.text !== false && (m.capabilities.text || !m.capabilities.embedding)).map((m) => <option key={m.id} value={m.id}>{m.name}</option>)}
          </select>
          <span id="keys" className="quiet grow">{busy ? t('Escape stops') : t('Enter sends, Shift+Enter breaks the line')}</span>
          {busy ? <button type="button" className="stop" onClick={halt}>{t('Stop')}</button>
            : <button type="submit" className="primary" disabled={nothing || waits}>{t('Send')}</button>}
        </div>
      </form>
    </div>
  );
}
