import { useChat } from '@ai-sdk/react';
import { DefaultChatTransport, type FileUIPart, type UIMessage } from 'ai';
import { useEffect, useMemo, useRef, useState, type RefObject } from 'react';
import { call, fresh, headers, post, words, type Model } from './api';
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

// What was chosen for a chat outlives its view, which is made anew when another branch is shown.
const choices = new Map<string, { model: string; documents: boolean }>();

export function Chat({ id, initial, siblings, running, draft, models, input, say, finished, reload }: Props) {
  const [text, setText] = useState(draft);
  const [files, setFiles] = useState<FileUIPart[]>([]);
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

  const take = (given: Iterable<File>) => {
    const pictures = [...given].filter((f) => f.type.startsWith('image/'));
    if (pictures.length === 0) return say(t('Only pictures can be sent along; documents go to the tasks.'));
    for (const file of pictures) {
      const reader = new FileReader();
      reader.onload = () => {
        setFiles((all) => [...all, { type: 'file', mediaType: file.type, filename: file.name, url: reader.result as string }]);
        say(t('{name} is attached.', { name: file.name }));
      };
      reader.readAsDataURL(file);
    }
  };
  const send = () => {
    if (busy || (!text.trim() && files.length === 0)) return;
    clearError();
    follows.current = true;
    asked.current = text;
    say(t('Answering.'));
    void sendMessage({ role: 'user', parts: [...files, { type: 'text', text: text.trim() || t('Describe this picture.') }], id: fresh() } as unknown as Parameters<typeof sendMessage>[0]);
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
            <p className="quiet">{t('Pictures can be dropped, pasted or picked.')}</p>
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
          <ul className="attached" aria-label={t('Pictures to send')}>
            {files.map((f, i) => (
              <li key={f.url.slice(-40) + i}>
                <img src={f.url} alt={f.filename ?? t('picture')} />
                <button type="button" className="icon" aria-label={t('Remove {name}', { name: f.filename ?? t('picture') })}
                  onClick={() => setFiles((all) => all.filter((g) => g !== f))}><span aria-hidden="true">✕</span></button>
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
          <button type="button" onClick={() => picker.current?.click()}>{t('Add picture')}</button>
          <input ref={picker} className="unseen" type="file" accept="image/*" multiple tabIndex={-1} aria-label={t('Pictures')}
            onChange={(e) => { take(e.target.files ?? []); e.target.value = ''; }} />
          <label className="check"><input type="checkbox" checked={documents} onChange={(e) => setDocuments(e.target.checked)} /> {t('Ask my documents')}</label>
          <label htmlFor="model">{t('Model')}</label>
          <select id="model" value={model} onChange={(e) => setModel(e.target.value)}>
            <option value="">{t('as assigned')}</option>
            {models.filter((m) => m.present && m.capabilities.text !== false).map((m) => <option key={m.id} value={m.id}>{m.name}</option>)}
          </select>
          <span id="keys" className="quiet grow">{busy ? t('Escape stops') : t('Enter sends, Shift+Enter breaks the line')}</span>
          {busy ? <button type="button" className="stop" onClick={halt}>{t('Stop')}</button>
            : <button type="submit" className="primary" disabled={!text.trim() && files.length === 0}>{t('Send')}</button>}
        </div>
      </form>
    </div>
  );
}
