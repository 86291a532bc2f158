// What a mark means, beside it, on touch and by keyboard too: the data-tip of an element.
const tip = document.getElementById("tip");
function showTip(event) {
  const about = event.target.closest && event.target.closest("[data-tip]");
  tip.hidden = !about;
  if (!about) return;
  tip.textContent = about.dataset.tip;
  const at = about.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const middle = at.left + at.width / 2 - own.width / 2;
  tip.style.left = Math.max(8, Math.min(middle, innerWidth - own.width - 8)) + "px";
  tip.style.top = (at.top > own.height + 12 ? at.top - own.height - 6 : at.bottom + 6) + "px";
}
for (const kind of ["pointerover", "click", "focusin"]) document.addEventListener(kind, showTip);
document.addEventListener("scroll", () => { tip.hidden = true; }, { capture: true, passive: true });
