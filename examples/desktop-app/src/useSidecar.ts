import { ensure, isSidecarError, onLog, onState, restart, status, type Snapshot } from 'mlx-sidecar';
import { useCallback, useEffect, useState } from 'react';

/** A model as `GET /v1/models` tells it. */
export interface Model {
  id: string;
  capabilities?: string[];
  loaded?: boolean;
}

const LINES_KEPT = 200;

/** The sidecar's state, its models and its log, and what can be done about them. */
export function useSidecar() {
  const [snapshot, setSnapshot] = useState<Snapshot>({ phase: 'starting', detail: '', code: null, sidecar: null });
  const [models, setModels] = useState<Model[]>([]);
  const [log, setLog] = useState<string[]>([]);
  const [problem, setProblem] = useState('');

  const refreshModels = useCallback(async () => {
    try {
      const { url, token } = await ensure();
      const headers: HeadersInit = token ? { authorization: `Bearer ${token}` } : {};
      const answer = await fetch(`${url}/v1/models`, { headers });
      if (!answer.ok) throw new Error(`The list of models can't be read (status ${answer.status}).`);
      const { data } = (await answer.json()) as { data: Model[] };
      setModels(data.filter((m) => !m.capabilities || m.capabilities.includes('text')));
    } catch (error) {
      if (!isSidecarError(error)) setProblem(String(error));
    }
  }, []);

  useEffect(() => {
    let here = true;
    const undo = [
      onState((next) => here && setSnapshot(next)),
      onLog(({ lines }) => here && setLog((old) => [...old, ...lines].slice(-LINES_KEPT))),
    ];
    // Listening first, so that nothing is missed in between.
    Promise.all(undo)
      .then(() => ensure())
      .catch(() => undefined) // told as a state
      .then(() => status())
      .then((now) => here && setSnapshot(now))
      .catch((error) => here && setProblem(isSidecarError(error) ? error.message : String(error)));
    return () => {
      here = false;
      for (const each of undo) void each.then((off) => off());
    };
  }, []);

  const instance = snapshot.sidecar?.instanceId;
  useEffect(() => {
    if (instance) void refreshModels();
  }, [instance, refreshModels]);

  const again = useCallback(async () => {
    setProblem('');
    try {
      await (snapshot.phase === 'running' ? restart() : ensure());
    } catch (error) {
      if (isSidecarError(error) && error.code === 'in_use') setProblem(`Not restarted: ${error.message}.`);
    }
  }, [snapshot.phase]);

  return { snapshot, models, log, problem, setProblem, refreshModels, again };
}
