// Threads with weights, and a text that goes on under them as they change.

import { answer, goOn } from "./api.js";
import { $, h, sendsWithEnter, svg } from "./dom.js";

const MOST = 4;
const threads = [];
const tokens = []; // {text, acting: [{adapter, weight}]}
let running = null; // {controller, id, model}
let timer = 0;

const model = () => {
  const used = threads.filter((one) => one.name.value.trim());
  if (!used.length) return "base";
  return `blend:${used.map((one) => `${(+one.slider.value).toFixed(2)}*${one.name.value.trim()}`).join("+")}`;
};

function thread(name, weight) {
  const taken = new Set(threads.map((one) => one.colour));
  const colour = [1, 2, 3, 4].find((number) => !taken.has(number));
  const one = { colour };
  one.name = h("input", { id: `thread-name-${colour}`, className: "name", value: name, autocomplete: "off", spellcheck: false });
  one.name.setAttribute("list", "names");
  one.name.setAttribute("aria-label", `Adapter of thread ${colour}`);
  one.slider = h("input", { type: "range", min: 0, max: 1.5, step: 0.05, value: weight });
  one.slider.setAttribute("aria-label", `Weight of thread ${colour}`);
  one.output = h("output");
  const remove = h("button", { type: "button", className: "quiet remove", textContent: "×" });
  remove.setAttribute("aria-label", `Remove thread ${colour}`);
  one.element = h(
    "div",
    { className: `thread thread-${colour}` },
    one.name,
    remove,
    one.slider,
    one.output,
  );
  const show = () => {
    one.output.textContent = (+one.slider.value).toFixed(2);
    one.slider.style.setProperty("--fill", `${(one.slider.value / 1.5) * 100}%`);
  };
  show();
  one.slider.addEventListener("input", () => {
    show();
    changed();
  });
  one.name.addEventListener("change", changed);
  remove.addEventListener("click", () => {
    threads.splice(threads.indexOf(one), 1);
    one.element.remove();
    $("add-thread").hidden = false;
    changed();
    $("add-thread").focus();
  });
  threads.push(one);
  $("threads").append(one.element);
  $("add-thread").hidden = threads.length >= MOST;
  return one;
}

/** Tell the server, at most every 80 ms, and the newest mixture last. */
function changed() {
  if (!running?.id || timer) return;
  timer = setTimeout(async () => {
    timer = 0;
    const wanted = model();
    if (!running?.id || wanted === running.model) return;
    running.model = wanted;
    try {
      await goOn(running.id, wanted);
    } catch (error) {
      if (error.status !== 404) complain(error); // it had just ended
    }
  }, 80);
}

function complain(error) {
  $("cloth").append(h("p", { className: "fault", textContent: error.message }));
}

/** The thread of an adapter; one of a store is named there by its folder alone. */
function colourOf(adapter) {
  const bare = (name) => (name.startsWith("store:") ? name.replace(/^store:(.*\/)?/, "").replace(/@.*/, "") : name);
  return threads.find((one) => bare(one.name.value.trim()) === adapter)?.colour ?? 0;
}

/** Bands from the top down, as shares of the whole: what is drawn under a token. */
function bands(acting) {
  const whole = acting.reduce((sum, { weight }) => sum + Math.abs(weight), 0);
  let at = 0;
  return acting
    .filter(({ weight }) => weight)
    .map(({ adapter, weight }) => {
      const from = at;
      at += Math.abs(weight) / whole;
      return { colour: colourOf(adapter), from, to: at };
    });
}

const wording = (acting) =>
  acting.length ? acting.map(({ adapter, weight }) => `${weight.toFixed(2)} ${adapter}`).join("  +  ") : "the base alone";

function show(token) {
  tokens.push(token);
  const stops = bands(token.acting).map(({ colour, from, to }) => {
    const ink = colour ? `var(--thread-${colour})` : "var(--soft)";
    return `${ink} ${from * 100}% ${to * 100}%`;
  });
  const span = h("span", { textContent: token.text, title: wording(token.acting) });
  if (stops.length) span.style.setProperty("--band", `linear-gradient(${stops.join(",")})`);
  $("cloth").append(span);
}

/** The runs of equal weights, as a list and as a strip. */
function tell() {
  const runs = [];
  tokens.forEach((token, place) => {
    const told = wording(token.acting);
    if (runs.at(-1)?.told === told) runs.at(-1).to = place;
    else runs.push({ told, acting: token.acting, from: place, to: place });
  });
  $("runs").replaceChildren(
    ...runs.map(({ told, from, to }) =>
      h(
        "li",
        {},
        h("span", { textContent: from === to ? `token ${from + 1}` : `tokens ${from + 1} to ${to + 1}` }),
        h("span", { textContent: told }),
      ),
    ),
  );
  const strip = $("weave");
  strip.setAttribute("viewBox", `0 0 ${Math.max(tokens.length, 24)} 1.5`);
  strip.replaceChildren(
    ...runs.flatMap(({ acting, from, to }) => {
      let top = 1.5;
      return acting.map(({ adapter, weight }) => {
        const high = Math.min(Math.abs(weight), top);
        top -= high;
        return svg("rect", { class: `thread-${colourOf(adapter)}`, x: from, y: top, width: to - from + 1, height: high });
      });
    }),
  );
}

async function write(event) {
  event.preventDefault();
  if (running) {
    running.controller.abort();
    return;
  }
  const prompt = $("mix-prompt").value.trim();
  if (!prompt) return;
  tokens.length = 0;
  $("cloth").replaceChildren();
  tell();
  running = { controller: new AbortController(), id: null, model: model() };
  $("write").textContent = "Stop";
  $("cloth").setAttribute("aria-busy", "true");
  try {
    const messages = [{ role: "user", content: prompt }];
    for await (const piece of answer(running.model, messages, { signal: running.controller.signal, trace: true })) {
      if (!running.id) {
        running.id = piece.id;
        changed(); // what was moved before the first token
      }
      const end = piece.reason === "stop" ? piece.traced.at(-1) : null; // acted on like all others, and is no text
      piece.traced.forEach((one) => show({ text: one === end ? "" : one.token, acting: one.acting }));
      tell();
    }
  } catch (error) {
    if (error.name !== "AbortError") complain(error);
  } finally {
    running = null;
    $("write").textContent = "Write";
    $("cloth").removeAttribute("aria-busy");
  }
}

/** Two threads to begin with, where nobody has chosen any. */
export function choose(...names) {
  threads.splice(0).forEach((one) => one.element.remove());
  names.forEach((name, place) => thread(name, place ? 0.5 : 1));
}

export const chosen = () => threads.length > 0;

export function start() {
  $("mix-form").addEventListener("submit", write);
  sendsWithEnter($("mix-prompt"));
  $("add-thread").addEventListener("click", () => thread("", 0.5).name.focus());
}
