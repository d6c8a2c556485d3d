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
