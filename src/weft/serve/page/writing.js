// One answer as it grows on the page.

import { answer } from "./api.js";
import { h } from "./dom.js";

/** An empty answer under a name: the element, and `write`, which fills it and gives the text. */
export function slot(model, thread) {
  const text = h("p");
  const told = h("small");
  const element = h("div", { className: `answer thread-${thread}` }, h("h3", { textContent: model }), text, told);

  async function write(messages, signal) {
    const begun = performance.now();
    element.classList.add("writing");
    element.setAttribute("aria-busy", "true");
    try {
      for await (const piece of answer(model, messages, { signal })) {
        text.append(piece.text);
        if (piece.reason === "length") told.textContent = "cut at its longest length · ";
      }
      told.append(`${((performance.now() - begun) / 1000).toFixed(2)} s`);
    } catch (error) {
      if (error.name === "AbortError") told.textContent = "stopped";
      else element.append(h("p", { className: "fault", textContent: error.message }));
    } finally {
      element.classList.remove("writing");
      element.removeAttribute("aria-busy");
      if (!text.textContent) text.remove();
    }
    return text.textContent;
  }

  return { element, write };
}
