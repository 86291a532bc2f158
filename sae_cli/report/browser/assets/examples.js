// Text with each token shaded by how strongly the feature fires there.
function shaded(words, values, scale) {
  return words.map((word, i) => {
    const value = values.get(i) || 0;
    const share = scale > 0 ? Math.min(1, value / scale) : 0;
    return el("span", { class: value ? "t on" : "t", tabindex: value ? "0" : null, "data-tip": `${quoted(word)}  ${told(value)}`,
      style: value ? { "--share": (0.15 + 0.85 * share).toFixed(3) } : null }, i ? visible(word) : visible(word.replace(/^ (?=.)/, "")));
  });
}

function example(one, scale) {
  return el("li", { class: "example" }, el("span", { class: "peak" }, one.peak ? told(one.peak) : "0"),
    el("p", { class: "tokens" }, shaded(one.words, one.values, scale)));
}

function exampleList(title, note, list, scale) {
  return el("section", { class: "block" }, el("h2", {}, title), note && el("p", { class: "note" }, note),
    list.length ? el("ol", { class: "examples" }, list.map((e) => example(e, scale))) : el("p", { class: "none" }, "None."));
}

// Columns of a histogram whose bins are factors of 2^(1/4), log counts.
function histogram(found, edges) {
  const { low, counts } = found;
  if (!counts.length) return el("p", { class: "none" }, "It fires on no token of this text.");
  const wide = 320, high = 130, gap = counts.length > 60 ? 0 : 1, most = Math.log1p(Math.max(...counts));
  const each = wide / Math.max(counts.length, 8);
  const bars = counts.map((n, i) => {
    const h = n ? Math.max(2, high * Math.log1p(n) / most) : 0;
    const range = `${told(edges[low + i])} to ${told(edges[low + i + 1])}: ${told(n)} tokens`;
    return el("rect", { x: (i * each).toFixed(2), y: (high - h).toFixed(1), width: Math.max(0.5, each - gap).toFixed(2), height: h.toFixed(1), "data-tip": range });
  });
  const label = (x, anchor, value) => el("text", { x, y: high + 14, "text-anchor": anchor }, told(value));
  return el("svg", { class: "hist", viewBox: `0 0 ${wide} ${high + 18}`, role: "img", "aria-label": `Histogram of activations from ${told(edges[low])} to ${told(edges[low + counts.length])}` },
    bars, el("path", { d: `M0 ${high}H${wide}` }), label(0, "start", edges[low]),
    label(counts.length * each, counts.length < 4 ? "start" : "end", edges[low + counts.length]));
}
