window.llamaforge = {
  // Names this tab's conversation across reloads; other tabs have their own.
  tabKey() {
    try {
      let key = sessionStorage.getItem("llamaforge-tab");
      if (!key) {
        const bytes = crypto.getRandomValues(new Uint8Array(16));
        key = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
        sessionStorage.setItem("llamaforge-tab", key);
      }
      return key;
    } catch {
      return "";
    }
  },

  // Saves a text as a file of the visitor's, without any file on the server.
  download(text, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/markdown" }));
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
  },
};

// The page follows the text while the reader is at its end, and lets go when the reader scrolls up.
(() => {
  let atEnd = true;
  const page = () => document.scrollingElement;
  const distance = () => page().scrollHeight - page().scrollTop - page().clientHeight;
  window.addEventListener("scroll", () => { atEnd = distance() < 80; }, { passive: true });
  const follow = () => {
    const log = document.getElementById("chat-log");
    if (!log) return setTimeout(follow, 200);
    new ResizeObserver(() => {
      if (atEnd && log.offsetParent && log.querySelector("[data-testid=user]")) page().scrollTop = page().scrollHeight;
    }).observe(log);
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", follow);
  else follow();
})();

// Gradio gives the box in which a message is edited no name.
document.addEventListener("focusin", (event) => {
  if (event.target.matches(".edit-textarea")) event.target.setAttribute("aria-label", "Edit message");
});

// The server's policy lets the browser fetch nothing from elsewhere; what a message wanted to show is named instead.
window.addEventListener("error", (event) => {
  const media = event.target;
  if (!(media instanceof HTMLElement) || !media.closest("#chat-log") || !media.matches("img, video, audio")) return;
  const source = media.getAttribute("src") ?? "";
  const host = URL.canParse(source, location.href) ? new URL(source, location.href).host : "";
  const text = document.createElement("span");
  text.className = "lf-blocked";
  text.textContent = `[not loaded: ${media.getAttribute("alt") || "picture"}${host ? ` from ${host}` : ""}]`;
  text.title = source;
  media.replaceWith(text);
}, true);
