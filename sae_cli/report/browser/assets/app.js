// Which page: `#` the SAEs, `#name` one of them, `#name/f=123` a feature.
const main = document.getElementById("main"), crumbs = document.getElementById("crumbs");
let catalogue = null, current = null, turn = 0;
const link = (sae, f) => `#${encodeURIComponent(sae.entry.folder)}${f === undefined ? "" : `/f=${f}`}`;

function where() {
  const [folder, page] = location.hash.slice(1).split("/").map(decodeURIComponent);
  const match = /^f=(\d+)$/.exec(page || "");
  return { folder, feature: match ? Number(match[1]) : null, about: page === "about" };
}

async function route() {
  const mine = ++turn;
  try {
    if (!catalogue) catalogue = (await load("saes")).meta;
    const { folder, feature, about } = where();
    const entry = folder ? catalogue.saes.find((s) => s.folder === folder) : catalogue.saes.length === 1 ? catalogue.saes[0] : null;
    if (folder && !entry) throw new Error(`There is no SAE called ${folder} here.`);
    if (!entry) return showAll();
    if (!current || current.sae.entry !== entry) await showSae(entry, mine);
    if (mine === turn) await showFeature(feature, about, mine);
  } catch (error) {
    if (mine !== turn) return;
    main.replaceChildren(el("p", { class: "pad wrong" }, error.message));
    current = null;
  }
}

function crumb(sae, feature) {
  document.title = [feature === null || feature === undefined ? null : `Feature ${feature}`, sae ? sae.entry.name : "SAE features"].filter(Boolean).join(" – ");
  crumbs.replaceChildren(...(sae ? [el("a", { href: link(sae) }, sae.entry.name)] : []));
}

function showAll() {
  current = null;
  crumb(null);
  main.className = "all";
  const facts = (s) => ["model", "layer", "site", "architecture", "width"].map((n) => s.facts[n]).join(" ");
  const lines = catalogue.saes.map((s) => el("li", { "data-text": `${s.name} ${facts(s)}`.toLowerCase() },
    el("a", { href: `#${encodeURIComponent(s.folder)}` }, s.name),
    el("span", { class: "small" }, `${told(s.features)} features, ${told(s.dead)} never fire here${s.notes ? `, ${told(s.notes)} with notes` : ""}`)));
  const search = el("input", { type: "search", id: "saes", placeholder: "Search SAEs", "aria-label": "Search SAEs", oninput: () => {
    const wanted = search.value.toLowerCase().split(/\s+/);
    for (const line of lines) line.hidden = !wanted.every((w) => line.dataset.text.includes(w));
  } });
  main.replaceChildren(el("h1", {}, "SAEs"), lines.length > 5 ? search : "", el("ul", { class: "saes" }, lines));
}

async function showSae(entry, mine) {
  if (!current) main.replaceChildren(el("p", { class: "pad note" }, "Opening …"));
  const sae = await Sae.open(entry);
  if (mine !== turn) return;
  const list = new FeatureList(sae, (f) => { location.hash = link(sae, f); });
  current = { sae, list, panel: el("section", { class: "panel", id: "panel", "aria-label": "Feature" }) };
  main.className = "sae";
  main.replaceChildren(list.element, current.panel);
  list.draw();
}

async function showFeature(feature, about, mine) {
  const { sae, list, panel } = current;
  crumb(sae, feature);
  main.dataset.view = feature === null && !about ? "list" : "feature";
  if (feature === null) {
    list.show(undefined);
    panel.replaceChildren(el("nav", { class: "steps" }, el("a", { class: "back", href: link(sae) }, "All features")), overview(sae));
    return;
  }
  if (feature >= sae.n) throw new Error(`${sae.entry.name} has features 0 to ${sae.n - 1}, not ${feature}.`);
  list.show(feature);
  const page = await featurePage(sae, feature);
  if (mine !== turn) return;
  const step = (by, text) => { const f = list.beside(by); return f === null ? null : el("a", { href: link(sae, f), rel: by < 0 ? "prev" : "next" }, text); };
  panel.replaceChildren(el("nav", { class: "steps", "aria-label": "Features" }, el("a", { class: "back", href: link(sae) }, "All features"), step(-1, "← previous"), step(1, "next →")), page);
  panel.scrollTop = 0;
  scrollTo(0, 0);
  if (document.activeElement === document.body || panel.contains(document.activeElement)) page.querySelector("h1").focus({ preventScroll: true });
}

function overview(sae) {
  const { meta, index } = sae, dead = index.fired.reduce((n, v) => n + (v === 0), 0);
  return el("article", { class: "feature" }, el("h1", {}, sae.entry.name),
    facts([["features", told(sae.n)], ["never fire here", told(dead)], ["tokens read", told(meta.tokens)], ["with notes", told(sae.said.size)]]),
    el("dl", { class: "facts" }, [["text", meta.corpus], ...Object.entries(meta.facts)].map(([k, v]) => [el("dt", {}, k), el("dd", {}, typeof v === "number" ? told(v) : String(v))])),
    Object.keys(meta.lacking).length ? el("section", { class: "block" }, el("h2", {}, "Not there"), el("dl", { class: "facts" }, Object.entries(meta.lacking).map(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]))) : null,
    LIVE ? tryText(sae) : null,
    el("p", { class: "note keys" }, "Keys: / searches, arrows move in the list, Enter opens, j and k go to the next and the previous feature, Escape goes back."));
}

document.addEventListener("keydown", (event) => {
  if (!current || event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest("input, textarea, select");
  if (event.key === "Escape" && event.target.matches("#search") && event.target.value) return;
  if (event.key === "Escape") { event.preventDefault(); location.hash = link(current.sae); if (typing) event.target.blur(); current.list.scroller.focus(); return; }
  if (typing) return;
  if (event.key === "/") { event.preventDefault(); if (main.dataset.view === "feature" && innerWidth < 1000) location.hash = link(current.sae); current.list.search.focus(); current.list.search.select(); }
  if ((event.key === "j" || event.key === "k") && main.dataset.view === "feature") {
    const f = current.list.beside(event.key === "j" ? 1 : -1);
    if (f !== null) { current.list.show(f); location.hash = link(current.sae, f); } // the next key may come before the hash does
  }
});
addEventListener("hashchange", route);
route();
