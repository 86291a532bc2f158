// All features of an SAE: sorted, filtered, searched; only rows in view are in the document.
const ROW = 52, SPARE = 8;
const COLUMNS = [
  { name: "number", label: "Feature number" },
  { name: "density", label: "Density", short: "density" },
  { name: "max", label: "Largest activation", short: "max" },
  { name: "mean", label: "Mean when it fires", short: "mean" },
  { name: "fired", label: "Tokens it fires on", short: "tokens" },
  { name: "windows", label: "Windows it fires in", short: "windows" },
  { name: "nearest", label: "Cosine of nearest", short: "cosine" },
  { name: "score", label: "Explanation score", short: "score" },
  { name: "f1", label: "F1 of its label", short: "F1" },
];

class FeatureList {
  constructor(sae, open) {
    this.sae = sae;
    this.open = open;
    this.columns = COLUMNS.filter((c) => c.name === "number" || (sae.index[c.name] && sae.index[c.name].some((v) => v === v)));
    this.sort = "number";
    this.down = false;
    this.bounds = new Map();
    this.active = 0;
    this.order = new Uint32Array(0);
    this.build();
    this.update();
  }

  build() {
    this.search = el("input", { type: "search", id: "search", placeholder: "Search words, labels, numbers", "aria-label": "Search features", autocomplete: "off", spellcheck: "false",
      oninput: () => this.update(), onkeydown: (e) => { if (e.key === "ArrowDown") { e.preventDefault(); this.scroller.focus(); } else if (e.key === "Enter" && this.order.length) this.open(this.order[0]); } });
    this.sorting = el("select", { id: "sort", "aria-label": "Sort by", onchange: () => { this.sort = this.sorting.value; this.down = this.sort !== "number"; this.update(); } },
      this.columns.map((c) => el("option", { value: c.name }, c.label)));
    this.way = el("button", { type: "button", id: "way", onclick: () => { this.down = !this.down; this.update(); } });
    this.count = el("span", { id: "count", role: "status" });
    this.dead = el("input", { type: "checkbox", id: "dead", checked: true, onchange: () => this.update() });
    this.told = el("input", { type: "checkbox", id: "told", onchange: () => this.update() });
    const bound = (column, end) => el("input", { type: "number", step: "any", placeholder: end, "aria-label": `${column.label}, ${end}`, "data-column": column.name, "data-end": end,
      oninput: (e) => { this.bounds.set(`${column.name} ${end}`, e.target.value === "" ? null : Number(e.target.value)); this.update(); } });
    const filters = el("details", { id: "filters" }, el("summary", {}, "Filters"),
      el("label", {}, this.dead, " hide features that never fire"),
      this.sae.said.size ? el("label", {}, this.told, " only with explanation, label or steering") : null,
      el("div", { class: "bounds" }, this.columns.map((c) => [el("span", {}, c.label), bound(c, "least"), bound(c, "most")])));
    this.inner = el("div", { class: "rows", role: "presentation" });
    this.scroller = el("div", { id: "list", role: "listbox", tabindex: "0", "aria-label": "Features", onscroll: () => this.draw(), onkeydown: (e) => this.key(e) }, this.inner);
    this.element = el("section", { class: "side", "aria-label": "List of features" },
      el("div", { class: "controls" }, this.search, el("div", { class: "line" }, this.sorting, this.way, this.count), filters, el("a", { class: "about", href: `${link(this.sae)}/about` }, "About this SAE")), this.scroller);
    new ResizeObserver(() => this.draw()).observe(this.scroller);
  }

  text(feature) {
    if (!this.texts) this.texts = new Array(this.sae.n);
    if (this.texts[feature] === undefined) {
      const said = this.sae.said.get(feature);
      this.texts[feature] = [feature, said ? `${said.text} ${said.label} ${said.steered}` : "", ...this.sae.peaks(feature)].join(" ").toLowerCase();
    }
    return this.texts[feature];
  }

  value(column, feature) {
    return column === "number" ? feature : this.sae.index[column][feature];
  }

  update() {
    const wanted = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const bounds = [...this.bounds].filter(([, v]) => v !== null && !Number.isNaN(v)).map(([k, v]) => [...k.split(" "), v]);
    const chosen = [];
    for (let f = 0; f < this.sae.n; f++) {
      if (this.dead.checked && !this.sae.index.fired[f]) continue;
      if (this.told.checked && !this.sae.said.has(f)) continue;
      if (!bounds.every(([c, end, v]) => { const own = this.value(c, f); return end === "least" ? own >= v : own <= v; })) continue;
      if (wanted.length && !wanted.every((w) => this.text(f).includes(w))) continue;
      chosen.push(f);
    }
    const way = this.down ? -1 : 1, column = this.sort;
    if (column !== "number") {
      chosen.sort((a, b) => {
        const x = this.value(column, a), y = this.value(column, b);
        if (x !== x || y !== y) return (x !== x) - (y !== y) || a - b; // no number: last
        return way * (x - y) || a - b;
      });
    } else if (this.down) chosen.reverse();
    this.order = Uint32Array.from(chosen);
    this.way.textContent = this.down ? "↓" : "↑";
    this.way.setAttribute("aria-label", this.down ? "Largest first" : "Smallest first");
    this.count.textContent = this.order.length === this.sae.n ? `${told(this.sae.n)}` : `${told(this.order.length)} of ${told(this.sae.n)}`;
    this.inner.style.height = `${this.order.length * ROW}px`;
    this.active = Math.max(0, this.order.indexOf(this.shown));
    this.scroller.scrollTop = this.shown === undefined ? 0 : Math.max(0, this.active * ROW - this.scroller.clientHeight / 2);
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / ROW) - SPARE);
    const last = Math.min(this.order.length, first + Math.ceil((this.scroller.clientHeight || 600) / ROW) + 2 * SPARE);
    const rows = [];
    for (let i = first; i < last; i++) rows.push(this.row(i));
    if (!this.order.length) rows.push(el("p", { class: "none" }, "No feature is like this."));
    this.inner.replaceChildren(...rows);
    const active = document.getElementById(`f${this.order[this.active]}`);
    if (active) this.scroller.setAttribute("aria-activedescendant", active.id);
    else this.scroller.removeAttribute("aria-activedescendant");
  }

  row(i) {
    const f = this.order[i], said = this.sae.said.get(f);
    const name = saidOf(this.sae, f);
    const numbers = ["density", "max"];
    if (this.sort !== "number" && !numbers.includes(this.sort)) numbers.push(this.sort);
    const small = numbers.map((c) => `${COLUMNS.find((x) => x.name === c).short} ${told(this.value(c, f))}`).join("  ");
    return el("div", { id: `f${f}`, class: "row", role: "option", "aria-selected": String(f === this.shown), "aria-setsize": this.order.length, "aria-posinset": i + 1,
      "data-active": i === this.active, style: { top: `${i * ROW}px` }, onclick: () => { this.active = i; this.open(f); } },
      el("span", { class: "no" }, String(f)),
      el("span", { class: "what" }, name || (this.sae.index.fired[f] ? this.sae.peaks(f).map((w) => el("i", {}, quoted(w))) : el("em", {}, "never fires here"))),
      el("span", { class: "small" }, small));
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / ROW) - 1), last = this.order.length - 1;
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in moves && last >= 0) {
      event.preventDefault();
      this.active = Math.max(0, Math.min(last, this.active + moves[event.key]));
      const top = this.active * ROW, view = this.scroller;
      if (top < view.scrollTop) view.scrollTop = top;
      if (top + ROW > view.scrollTop + view.clientHeight) view.scrollTop = top + ROW - view.clientHeight;
      this.draw();
    } else if (event.key === "Enter" && last >= 0) { event.preventDefault(); this.open(this.order[this.active]); }
  }

  show(feature) {
    this.shown = feature;
    const at = this.order.indexOf(feature);
    if (at >= 0) {
      this.active = at;
      const top = at * ROW, view = this.scroller;
      if (top < view.scrollTop || top + ROW > view.scrollTop + view.clientHeight) view.scrollTop = Math.max(0, top - view.clientHeight / 2);
    }
    this.draw();
  }

  beside(step) {
    const at = this.order.indexOf(this.shown) + step;
    return at >= 0 && at < this.order.length ? this.order[at] : null;
  }
}
