// What a page can ask where `saectl browse --serve` serves it: the model itself.
const LIVE = document.documentElement.hasAttribute("data-live");

async function ask(what, body) {
  const answer = await fetch(`api/${what}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error || `error ${answer.status}`);
  return said;
}

let typed = "";
function textBox(id, label) {
  return el("label", { class: "field", for: id }, label, el("textarea", { id, rows: "3", maxlength: "20000", oninput: (e) => { typed = e.target.value; } }, typed));
}

// A form with an answer below; a second question waits for the first.
function form(id, fields, go, work) {
  const out = el("div", { class: "answer", role: "status" });
  const button = el("button", { type: "submit" }, go);
  return el("form", { id, class: "live", onsubmit: async (event) => {
    event.preventDefault();
    button.disabled = true;
    out.replaceChildren(el("p", { class: "note" }, "The model is at work …"));
    try { out.replaceChildren(...[await work()].flat()); }
    catch (error) { out.replaceChildren(el("p", { class: "wrong" }, error.message)); }
    button.disabled = false;
  } }, fields, button, out);
}

function tryText(sae) {
  const box = textBox("text", "A text");
  return el("section", { class: "block" }, el("h2", {}, "What fires in a text"), form("try", box, "Read", async () => {
    const read = await ask("read", { sae: sae.entry.folder, text: box.lastChild.value });
    const below = el("div", {});
    const show = (i) => below.replaceChildren(el("h3", {}, `On ${quoted(read.words[i])}`), read.fired[i].length
      ? el("ol", { class: "near" }, read.fired[i].map(([f, v]) => el("li", {}, el("a", { href: link(sae, f) }, el("span", { class: "no" }, String(f)),
        el("span", { class: "what" }, saidOf(sae, f) || sae.peaks(f).map((w) => el("i", {}, quoted(w))))), el("span", { class: "value" }, told(v)))))
      : el("p", { class: "none" }, read.counts[i] ? "No feature fires here." : "This token does not count: a special token, or one of extreme norm."));
    const words = read.words.map((w, i) => el("button", { type: "button", class: "t pick", onclick: (e) => { for (const o of e.target.parentNode.children) o.removeAttribute("aria-pressed"); e.target.setAttribute("aria-pressed", "true"); show(i); } }, visible(w)));
    if (words.length) { words[words.length - 1].setAttribute("aria-pressed", "true"); show(words.length - 1); }
    return [el("p", { class: "tokens" }, words), below];
  }));
}

function tryFeature(sae, f, scale) {
  const box = textBox("text", "A text");
  const strength = el("input", { id: "strength", type: "number", step: "any", value: scale ? Number((2 * scale).toPrecision(3)) : 1, required: true });
  const length = el("input", { id: "length", type: "number", min: "1", max: "256", value: "32", required: true });
  const fields = [box, el("div", { class: "line" }, el("label", { class: "field", for: "strength" }, "Strength, raw units", strength), el("label", { class: "field", for: "length" }, "New tokens", length))];
  const continued = (title, words) => el("div", {}, el("h3", {}, title), el("p", { class: "tokens" }, words.map((w) => el("span", { class: "t" }, visible(w)))));
  return el("section", { class: "block" }, el("h2", {}, "Try it"), form("steer", fields, "Read and steer", async () => {
    const said = await ask("steer", { sae: sae.entry.folder, feature: f, text: box.lastChild.value, strength: Number(strength.value), tokens: Number(length.value) });
    const values = new Map(said.values.map((v, i) => [i, v]).filter(([, v]) => v > 0));
    return [el("h3", {}, "Where it fires in this text"), el("p", { class: "tokens" }, shaded(said.words, values, Math.max(scale, ...said.values))),
      el("div", { class: "pair" }, continued("Goes on, untouched", said.plain), continued(`Goes on, feature ${f} held at ${told(said.strength)}`, said.steered))];
  }));
}
