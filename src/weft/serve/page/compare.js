// One question, answered under two names side by side.

import { $, h, sendsWithEnter } from "./dom.js";
import { slot } from "./writing.js";

const history = [[], []];
let running = null;

const names = () => [$("side-0").value.trim() || "base", $("side-1").value.trim() || "base"];

export function choose(first, second) {
  $("side-0").value = first;
  $("side-1").value = second;
}

function forget() {
  running?.abort();
  history.forEach((turns) => turns.splice(0));
  $("turns").replaceChildren();
  $("question").focus();
}

async function send(event) {
  event.preventDefault();
  if (running) {
    running.abort();
    return;
  }
  const question = $("question").value.trim();
  if (!question) return;
  const slots = names().map((name, side) => slot(name, side + 1));
  const turn = h(
    "article",
    { className: "turn" },
    h("h2", { className: "asked", textContent: question }),
    h("div", { className: "pair" }, ...slots.map((one) => one.element)),
  );
  $("turns").append(turn);
  $("question").value = "";
  turn.scrollIntoView({ block: "nearest" });
  running = new AbortController();
  $("ask").textContent = "Stop";
  const asked = { role: "user", content: question };
  await Promise.all(
    slots.map(async (one, side) => {
      const before = $("remember").checked ? history[side] : [];
      const said = await one.write([...before, asked], running.signal);
      history[side].push(asked, { role: "assistant", content: said });
    }),
  );
  running = null;
  $("ask").textContent = "Ask both";
  turn.scrollIntoView({ block: "nearest" });
}

export function start() {
  $("compare-form").addEventListener("submit", send);
  $("forget").addEventListener("click", forget);
  sendsWithEnter($("question"));
}
