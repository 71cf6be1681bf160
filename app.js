// Gradio leaves the button around an uploaded picture without a name, which a screen reader would read out.
new MutationObserver(() => document.querySelectorAll("button:has(> .image-frame):not([aria-label])").forEach(
  button => button.setAttribute("aria-label", button.closest("#heat-map") ? "Heat map" : "Picture"))).observe(
  document, { childList: true, subtree: true });

// Bring the answer into view, and the question into the page's link.
function answered(question) {
  const link = new URL(location);
  link.searchParams.set("question", question);
  history.replaceState(null, "", link);
  document.getElementById("best").scrollIntoView({ block: "nearest", behavior: "smooth" });
}

// The question of the page's link, where nothing has been typed yet.
function linked(typed) {
  return typed || new URL(location).searchParams.get("question") || "";
}
