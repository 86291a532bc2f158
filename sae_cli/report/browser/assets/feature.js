// The page of a feature.
const saidOf = (sae, f) => { const own = sae.said.get(f); return own ? [own.label, own.text].filter(Boolean).join(" · ") : ""; };
const facts = (pairs) => el("dl", { class: "glance" }, pairs.map(([k, v, about]) => el("div", { "data-tip": about }, el("dt", {}, k), el("dd", {}, v))));

async function featurePage(sae, f) {
  const found = await sae.page(f), { index } = sae, lacking = sae.meta.lacking;
  const scale = index.max[f];
  const fired = index.fired[f] > 0;
  return el("article", { class: "feature" },
    el("h1", { tabindex: "-1" }, `Feature ${f}`),
    said(found.notes, lacking),
    facts([
      ["density", told(index.density[f]), "Share of tokens on which it fires"],
      ["fires on", `${told(index.fired[f])} tokens`, `Of ${told(sae.meta.tokens)} that count`],
      ["mean", told(fired ? index.mean[f] : NaN), "Mean activation where it fires"],
      ["largest", told(fired ? scale : NaN), "In raw activation units"],
    ]),
    el("div", { class: "pair" },
      el("section", { class: "block" }, el("h2", {}, "Activations"), histogram(found.histogram, index.edges),
        fired && el("p", { class: "note" }, "Tokens by strength, four bins a factor of two, log scale both ways; zeros left out.")),
      el("section", { class: "block" }, el("h2", {}, "Nearest features"), neighbours(sae, found.near))),
    el("div", { class: "pair" }, logits("Raises the logits of", found.up, lacking.lens), logits("Lowers the logits of", found.down, lacking.lens)),
    steered(found.notes.steering),
    LIVE ? tryFeature(sae, f, scale) : null,
    exampleList("Strongest examples", null, found.top, scale),
    quantiles(found.sample, scale),
    exampleList("Where it does not fire", "From random windows that all features share.", found.idle, scale));
}

function said(notes, lacking) {
  const lines = [];
  for (const e of notes.explanations || []) {
    const scores = ["detection", "fuzzing"].filter((s) => e[s] !== null && e[s] !== undefined).map((s) => `${s} ${told(e[s])}`);
    lines.push(el("p", { class: "says" }, e.text, el("span", { class: "by" }, `explained by ${e.by}${scores.length ? ", balanced accuracy on held-out text: " + scores.join(", ") : ", not scored"}`)));
  }
  for (const l of notes.labels || []) lines.push(el("p", { class: "says label" }, l.label, el("span", { class: "by" }, `ground-truth label, F1 ${told(l.f1)} on held-out text`)));
  if (!lines.length) {
    const why = lacking.explanations && lacking.labels ? "No study of this SAE explained or labelled features." : "This feature has no explanation and no label: studies draw some features only.";
    lines.push(el("p", { class: "note" }, why));
  }
  return lines;
}

function steered(records) {
  if (!records || !records.length) return null;
  return el("section", { class: "block" }, el("h2", {}, "Steering"), records.slice(0, 20).map((r) =>
    el("dl", { class: "facts" }, Object.entries(r).map(([k, v]) => [el("dt", {}, k.replace(/_/g, " ")), el("dd", {}, typeof v === "number" ? told(v) : String(v))]))));
}

function neighbours(sae, near) {
  if (!near || !near.length) return el("p", { class: "none" }, "None.");
  return el("ol", { class: "near" }, near.map((n) => {
    return el("li", {}, el("a", { href: link(sae, n.id) }, el("span", { class: "no" }, String(n.id)),
      el("span", { class: "what" }, saidOf(sae, n.id) || sae.peaks(n.id).map((w) => el("i", {}, quoted(w))))),
      el("span", { class: "value" }, n.value.toFixed(2)));
  }));
}

function logits(title, list, why) {
  const most = list ? Math.max(...list.map((e) => Math.abs(e.value))) : 1;
  return el("section", { class: "block" }, el("h2", {}, title), list
    ? el("ol", { class: "logits" }, list.map((e) => el("li", {}, el("code", {}, quoted(e.word)),
      el("span", { class: "bar" }, el("span", { style: { width: `${100 * Math.abs(e.value) / most}%` } })), el("span", { class: "value" }, e.value.toFixed(2)))))
    : el("p", { class: "none" }, `Not there: ${why}.`));
}

function quantiles(sample, scale) {
  if (!sample.length) return null;
  const groups = new Map();
  for (const e of sample) groups.set(e.group, [...(groups.get(e.group) || []), e]);
  return el("section", { class: "block" }, el("h2", {}, "A fair sample, by strength"),
    el("p", { class: "note" }, "Windows in which it fires, each as likely as any other, cut into equal parts by their peaks."),
    [...groups].map(([g, list]) => {
      const peaks = list.map((e) => e.peak), low = Math.min(...peaks), high = Math.max(...peaks);
      return el("section", { class: "group", "data-group": g }, el("h3", {}, low === high ? `Peak ${told(high)}` : `Peaks ${told(low)} to ${told(high)}`),
        el("ol", { class: "examples" }, list.map((e) => example(e, scale))));
    }));
}
