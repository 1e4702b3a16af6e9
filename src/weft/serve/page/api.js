// The server as the page sees it: JSON, streams of events, and the key that this tab holds.

const KEY = "weft-key";

export const settings = { temperature: 0, longest: null };

export const readKey = () => sessionStorage.getItem(KEY) ?? "";

export function writeKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function ask(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  if (readKey()) headers.Authorization = `Bearer ${readKey()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer.");
  }
  if (response.ok) return response;
  let told = `${response.status} ${response.statusText}`;
  try {
    told = (await response.json()).error.message;
  } catch { /* no JSON: the status has to do */ }
  throw new Refused(response.status, told);
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (held + value).split("\n");
    held = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      if (line === "data: [DONE]") return;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Refused(500, event.error.message);
      yield event;
    }
  }
}

/**
 * Answer a chat under a name; gives {id, text, traced, reason} as it is written.
 * `traced` tells what acted on the tokens since the last piece, where `trace` is asked for.
 */
export async function* answer(model, messages, { signal, trace = false } = {}) {
  const body = { model, messages, stream: true, temperature: settings.temperature };
  if (settings.longest) body.max_tokens = settings.longest;
  if (trace) body.trace = true;
  for await (const event of events(await ask("/v1/chat/completions", { method: "POST", body, signal }))) {
    const choice = event.choices[0];
    if (!choice) continue;
    yield {
      id: event.id,
      text: choice.delta.content ?? "",
      traced: choice.trace ?? [],
      reason: choice.finish_reason,
    };
  }
}

/** Let a text that is being written go on under another name. */
export const goOn = (id, model) =>
  ask(`/v1/running/${encodeURIComponent(id)}`, { method: "PATCH", body: { model } }).then((r) => r.json());

/** Save an adapter as a zip file; a link could not carry the key. */
export async function download(name) {
  const response = await ask(`/v1/adapters/${encodeURIComponent(name)}?download=true`);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = `${name}.zip`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
