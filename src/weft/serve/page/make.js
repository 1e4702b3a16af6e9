// A sentence becomes an adapter, and is tried at once.

import { ask, download } from "./api.js";
import { $, h, sendsWithEnter } from "./dom.js";
import { slot } from "./writing.js";

let running = null;
let learned = () => {};

/** A name that the server takes, made of the first words of a sentence. */
function nameFor(sentence) {
  const words = sentence.toLowerCase().normalize("NFKD").match(/[a-z0-9]+/g) ?? [];
  return words.slice(0, 5).join("-").slice(0, 60) || "adapter";
}

function keeper(sentence) {
  const name = h("input", { value: nameFor(sentence), spellcheck: false, autocomplete: "off", className: "name" });
  const label = h("label", { className: "field" }, h("span", { className: "label", textContent: "Keep it as" }), name);
  const form = h("form", { className: "keep" }, label, h("button", { className: "plain", textContent: "Keep" }));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    form.querySelector(".fault")?.remove();
    try {
      const body = { name: name.value.trim(), description: sentence };
      const card = await (await ask("/v1/adapters", { method: "POST", body })).json();
      const save = h("button", { type: "button", className: "quiet", textContent: "Download" });
      save.addEventListener("click", () => download(card.name));
      const told = h("p", { className: "kept" }, "Kept as ", h("code", { textContent: card.name }), `, rank ${card.rank}, ${card.sha256.slice(0, 12)} `, save);
      form.replaceWith(told);
      learned();
    } catch (error) {
      form.append(h("p", { className: "fault kept", textContent: error.message }));
    }
  });
  return form;
}

async function make(event) {
  event.preventDefault();
  if (running) {
    running.abort();
    return;
  }
  const sentence = $("sentence").value.trim();
  const sample = $("sample").value.trim();
  if (!sentence || !sample) return;
  const slots = [slot("base", 0), slot(`gen:${sentence}`, 1)];
  const turn = h(
    "article",
    { className: "turn" },
    h("h2", { className: "asked" }, sample, h("small", { textContent: sentence })),
    h("div", { className: "pair" }, ...slots.map((one) => one.element)),
  );
  $("tries").prepend(turn);
  running = new AbortController();
  $("make").textContent = "Stop";
  const messages = [{ role: "user", content: sample }];
  const said = await Promise.all(slots.map((one) => one.write(messages, running.signal)));
  running = null;
  $("make").textContent = "Make and try";
  if (said[1]) turn.append(keeper(sentence));
}

/** Sentences to begin with: what the adapters of the shelf were made for. */
export function suggest(cards) {
  const told = [...new Set(cards.map((card) => card.description).filter(Boolean))].slice(0, 4);
  $("ideas").hidden = !told.length;
  $("ideas").replaceChildren(
    "For example",
    ...told.map((text) => {
      const button = h("button", { type: "button", textContent: text });
      button.addEventListener("click", () => {
        $("sentence").value = text;
        $("sample").focus();
      });
      return button;
    }),
  );
}

export function start(onLearned) {
  learned = onLearned;
  $("make-form").addEventListener("submit", make);
  sendsWithEnter($("sentence"));
}
