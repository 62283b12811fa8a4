// Every call to the service. The key, where the service wants one, stays in this origin's sessionStorage (which,
// unlike a cookie, no program on another port of this machine gets) and goes out as a bearer token alone.

import { t } from './i18n';

export interface Session { id: string; title: string; updated_at: number; running: boolean }
export interface Model { id: number; provider_id: string; name: string; capabilities: Record<string, boolean>; present: boolean }
export interface Provider { id: string; name: string; kind: string; base_url: string | null; has_key: boolean }
export interface Capability { name: string; description: string; model: Model | null; provider: Provider | null }
export interface Task {
  id: string; kind: string; name: string; state: string; done: number; total: number; note: string;
  error: string | null; result: Record<string, unknown> | null;
}
export interface Offer {
  alias: string; hub_id: string | null; title: string; capabilities: string[]; size_gb: number; license: string; good_at: string;
  min_memory_gb: number; fits: boolean; recommended: boolean; installed: boolean;
}
export interface Pull {
  model: string; state: 'running' | 'done' | 'failed' | 'cancelled'; error: string | null; status: string | null; file: string | null;
  completed: number | null; total: number | null; rate: number | null; seconds_left: number | null; message: string | null;
}
export interface Attached { part: { type: 'file'; mediaType: string; filename: string; url: string }; pages: number; characters: number; scans: number; note: string }
/** What the sidecar says of one of its models, or of a profile of it (`parent`). `bytes`: in memory now. */
export interface Detail {
  id: string; title?: string; size_bytes: number; context_length?: number; license?: string; loaded: boolean; bytes?: number; unloads_in?: number | null;
  settings: Record<string, unknown>; profiles: string[]; parent?: string;
}
export interface Folder { id: string; path: string; state: string; files: number; refused: Record<string, string> }
export interface Source { document: string; page: number; text: string }
export interface Catalogue { models: Model[]; providers: Provider[]; capabilities: Capability[] }
export interface Happened { at: number; kind: string; detail: string; pid: number | null }
export interface McpServer { name: string; kind: string; state: string; error: string | null; tools: { name: string; description: string }[] }
export interface Mcp { file: string; error: string | null; servers: McpServer[]; allowed: string[] }
export interface Hit { document: string; page: number; pictures: number[]; text: string; score: number }
export interface Status {
  host: { pid: number; uptime_s: number; memory_bytes: number | null };
  sidecar: {
    wanted: boolean; phase: string; detail: string; pid: number | null; memory_bytes: number | null; listener_bytes: number | null;
    model: string | null; loading: { model: string; progress: number } | string | null;
    queue: Record<string, { running: number; waiting: number }> | null; generated_tokens: number | null; events: Happened[];
  };
  tasks_trouble: string | null;
}

const KEY = 'mlx-host-key';

/** Take a key out of the address (`#key=…`): it must not stay in the history. */
export function keyFromAddress(): void {
  const found = /[#&]key=([^&]+)/.exec(location.hash);
  if (!found?.[1]) return;
  setKey(decodeURIComponent(found[1]));
  history.replaceState(null, '', location.pathname + location.search);
}

export function setKey(key: string): void { sessionStorage.setItem(KEY, key); }

export function headers(): Record<string, string> {
  const key = sessionStorage.getItem(KEY);
  return key ? { authorization: `Bearer ${key}` } : {};
}

/** What the service said went wrong; `code` is its stable name for it. */
export class Refused extends Error {
  constructor(message: string, readonly status: number, readonly code: string) { super(message); }
}

/** The words of an error for people, whatever it is. */
export function words(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  try {
    return JSON.parse(text).error.message as string;
  } catch {
    return text === 'Failed to fetch' ? t('The service can’t be reached. Is it running?') : text;
  }
}

export async function call(method: string, path: string, body?: unknown): Promise<Response> {
  const form = body instanceof FormData;
  const answer = await fetch(path, {
    method,
    headers: { ...headers(), ...(body === undefined || form ? {} : { 'content-type': 'application/json' }) },
    body: body === undefined ? undefined : form ? body : JSON.stringify(body),
  });
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  const error = said?.error ?? { message: t('The service says {status}.', { status: answer.status }), code: '' };
  throw new Refused(error.message, answer.status, error.code);
}

/** Send a form and tell how far it is, from 0 to 1: fetch can't, so this is an XMLHttpRequest. Its answer is JSON. */
export function send<T = unknown>(path: string, form: FormData, far: (part: number) => void, gone?: AbortSignal): Promise<T> {
  return new Promise((done, failed) => {
    const asked = new XMLHttpRequest();
    asked.open('POST', path);
    for (const [name, value] of Object.entries(headers())) asked.setRequestHeader(name, value);
    asked.upload.onprogress = (e) => { if (e.lengthComputable) far(e.loaded / e.total); };
    gone?.addEventListener('abort', () => asked.abort());
    asked.onabort = () => failed(new Error('aborted'));
    asked.onerror = () => failed(new Error('Failed to fetch'));
    asked.onload = () => {
      if (asked.status < 300) return done(JSON.parse(asked.responseText) as T);
      let error = { message: t('The service says {status}.', { status: asked.status }), code: '' };
      try { error = JSON.parse(asked.responseText).error ?? error; } catch { /* not the service's own words */ }
      failed(new Refused(error.message, asked.status, error.code));
    };
    asked.send(form);
  });
}

export async function get<T>(path: string): Promise<T> { return (await call('GET', path)).json() as Promise<T>; }
export async function post<T>(path: string, body?: unknown): Promise<T> {
  return (await call('POST', path, body)).json() as Promise<T>;
}

/** The address of a file's bytes, which are fetched with the key. */
export async function blob(path: string, kind: string): Promise<string> {
  return URL.createObjectURL(new Blob([await (await call('GET', path)).arrayBuffer()], { type: kind }));
}

/**
 * Everything the page shows, as it changes: one stream of events for as long as `signal` lets it, begun anew when it
 * breaks. EventSource can't send the key, so this reads itself.
 */
export async function feed(seen: (topic: string, data: unknown) => void, lost: (error: unknown) => void, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    try {
      const answer = await fetch('events', { headers: headers(), signal });
      if (!answer.ok || !answer.body) throw new Refused(t('The service says {status}.', { status: answer.status }), answer.status, '');
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = '';
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const events = (rest + value).split('\n\n');
        rest = events.pop() ?? '';
        for (const event of events) {
          const [name, data] = event.split('\n');
          if (name?.startsWith('event: ') && data?.startsWith('data: ')) seen(name.slice(7), JSON.parse(data.slice(6)));
        }
      }
      lost(new Error('Failed to fetch'));
    } catch (error) {
      if (signal.aborted) return;
      lost(error);
      if (error instanceof Refused && error.status === 401) return;
    }
    await new Promise((go) => setTimeout(go, 2000));
  }
}

/** A fresh identifier, also where the page is not in a secure context. */
export function fresh(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('');
}
