/**
 * mlx-sidecar for the page of a Tauri app; needs `@tauri-apps/api` alone.
 *
 * Every function rejects with a {@link SidecarError}: `{ code, message }`, the message made to be shown.
 */
import { invoke } from '@tauri-apps/api/core';
import { listen, type UnlistenFn } from '@tauri-apps/api/event';

/** How this app stands with the sidecar. */
export type Phase = 'stopped' | 'starting' | 'running' | 'restarting' | 'failed';

/** A running sidecar. */
export interface SidecarInfo {
  /** `http://127.0.0.1:<port>`, without `/v1`. */
  url: string;
  pid: number;
  instanceId: string;
  how: 'spawned' | 'attached';
  version: string;
}

/** A running sidecar with the bearer token to send. Ask anew before each use: a restart changes both. */
export interface Connection extends SidecarInfo {
  token: string | null;
}

/** The payload of {@link onState}. */
export interface Snapshot {
  phase: Phase;
  /** More, for people. */
  detail: string;
  /** The error's code, when `phase` is `failed`. */
  code: string | null;
  /** When `phase` is `running`. */
  sidecar: SidecarInfo | null;
}

/** {@link Snapshot}, and what the state directory and the sidecar say. */
export interface Status extends Snapshot {
  state: 'stopped' | 'starting' | 'running' | 'draining' | 'failed' | 'hung' | 'foreign';
  /** The document of `/health`. */
  health: Record<string, unknown> | null;
}

/** The payload of {@link onDownload}. `status` ends with `done`, `failed` or `cancelled`. */
export interface Download {
  model: string;
  status: string;
  file: string | null;
  /** Bytes. */
  completed: number | null;
  /** Bytes. */
  total: number | null;
  error: string | null;
}

/** The payload of {@link onLog}. */
export interface LogLines {
  source: 'launch' | 'service';
  lines: string[];
}

/** What a call rejects with. */
export interface SidecarError {
  code:
    | 'state_dir' | 'conflict' | 'launch_failed' | 'timeout' | 'in_use' | 'host_error'
    | 'not_bundled' | 'not_connected' | 'quitting' | 'pull_unsupported' | 'pull_failed' | 'cancelled' | 'internal';
  message: string;
}

const call = <T>(command: string, args?: Record<string, unknown>) => invoke<T>(`plugin:mlx-sidecar|${command}`, args);

/** Attach to the sidecar, starting it where there is none. */
export const ensure = () => call<Connection>('ensure');
/** How things are; starts nothing. */
export const status = () => call<Status>('status');
/** Address and token of the sidecar that is there; rejects with `not_connected` otherwise. */
export const connection = () => call<Connection>('connection');
/** Stop it and start it anew; without `force` it rejects with `in_use` when other programs use it. */
export const restart = (force = false) => call<Connection>('restart', { force });
/** Stop it; false when none ran. Needs the permission `mlx-sidecar:allow-stop`. */
export const stop = (force = false) => call<boolean>('stop', { force });
/** Fetch a model; resolves at its end. Steps come by {@link onDownload}. */
export const pull = (model: string) => call<void>('pull', { model });
/** End a download at its next step; false when there is none of that name. */
export const cancelPull = (model: string) => call<boolean>('cancel_pull', { model });

/** Be told of every change. */
export const onState = (handler: (snapshot: Snapshot) => void): Promise<UnlistenFn> =>
  listen<Snapshot>('mlx-sidecar://state', (event) => handler(event.payload));
/** Be told of downloads, those of other windows too. */
export const onDownload = (handler: (download: Download) => void): Promise<UnlistenFn> =>
  listen<Download>('mlx-sidecar://download', (event) => handler(event.payload));
/** Be told what the sidecar writes. */
export const onLog = (handler: (log: LogLines) => void): Promise<UnlistenFn> =>
  listen<LogLines>('mlx-sidecar://log', (event) => handler(event.payload));

/** Whether `error` is one of ours. */
export function isSidecarError(error: unknown): error is SidecarError {
  return typeof error === 'object' && error !== null && 'code' in error && 'message' in error;
}
