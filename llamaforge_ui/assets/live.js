// The answer being written: read from a stream of its own, and drawn by Gradio's Markdown without asking the server.
{
  const SLOWEST = 400; // milliseconds between drawings, however busy the page is
  const SHARE = 3; // a third of the time goes into drawing, at most
  const SAYS = /[\p{L}\p{N}]/u; // Markdown before it, "## " say, shows nothing
  const here = window.llamaforge;
  const AGAIN = 3000; // milliseconds after which the end is told once more, where nobody heard it
  let told = { chat: "", number: 0, running: false, more: "" }; // by the server: the last answer
  let reading = null; // the stream that is open: of the answer after `number` in `chat`
  let asked = ""; // the message that is answered
  let text = "";
  let said = false; // whether a word of it was drawn
  let status = "";
  let due = 0; // when the next drawing may begin
  let timer = 0;
  let again = 0;

  // What the hidden buttons of chat_tab.py take: what is drawn, and which answer has no more to read.
  here.liveTurn = () => [reading?.own || told.more === "asked" ? asked : "", text, status];
  here.finished = [0, ""];
  here.writing = () => Boolean(reading?.begun && !reading.ended); // known before the server shows Stop

  const draw = () => {
    clearTimeout(timer);
    timer = 0;
    const begun = performance.now();
    document.getElementById("live-draw")?.click();
    due = begun + SLOWEST; // until it is known how long this takes
    requestAnimationFrame(() => setTimeout(() => {
      const took = performance.now() - begun;
      due = Math.min(begun + SLOWEST, begun + SHARE * took);
      if (timer) soon();
    }));
  };

  const soon = () => {
    clearTimeout(timer);
    timer = setTimeout(draw, Math.max(0, due - performance.now()));
  };

  const take = ({ cut, add, status: line, asked: message }) => {
    const first = message || (!said && SAYS.test(add));
    said ||= first && !message;
    asked = message ?? asked;
    text = (cut ? text.slice(0, -cut) : text) + add;
    status = line;
    if (first) draw();
    else soon();
  };

  const finish = (chat, number) => {
    clearTimeout(again);
    if (told.chat === chat && (told.number > number || (told.number === number && !told.running))) return; // it is drawn
    if (told.chat === chat && told.more === "by") return; // by events, to its end
    here.finished = [number, chat];
    document.getElementById("live-end")?.click();
    again = setTimeout(() => { if (told.chat === chat) finish(chat, number); }, AGAIN);
  };

  const lines = async function* (request) {
    const answer = await fetch(`${location.pathname.replace(/\/*$/, "")}/live`, request);
    if (!answer.ok) return;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const events = (rest + part.value).split("\n\n");
      rest = events.pop();
      for (const event of events) if (event.startsWith("data: ")) yield JSON.parse(event.slice(6));
    }
  };

  // Reads the answer after `number` in a chat, which runs or begins within seconds.
  const read = async (chat, number, own = false) => {
    if (reading?.chat === chat && reading.number === number) return;
    reading?.abort.abort();
    const mine = (reading = { chat, number, abort: new AbortController(), begun: false, own });
    asked = text = status = "";
    said = false;
    const body = JSON.stringify({ key: here.tabKey(), chat, drawn: number });
    try {
      for await (const change of lines({ method: "POST", body, signal: mine.abort.signal })) {
        if (reading !== mine) return;
        mine.begun = true;
        take(change);
      }
    } catch { /* the server is away, or this was given up */ }
    if (reading !== mine) return;
    mine.ended = true;
    if (timer) draw(); // the last word is not held up
    const heard = told.running && told.chat === chat && told.number === number + 1;
    if (heard) finish(chat, number + 1);
    else if (mine.begun) again = setTimeout(() => finish(chat, number + 1), AGAIN); // the server is about to tell of it
    else reading = null; // nothing was answered
  };

  // Hears from the server which answer runs, or that the chat is drawn with the last one.
  here.follow = (line) => {
    const [chat, number, state, more] = (line ?? "").split(" ");
    told = { chat, number: Number(number), running: state === "running", more };
    if (told.running) {
      if (more === "by") return; // by events, for whom nobody reads a stream
      if (!(reading?.chat === chat && reading.number === told.number - 1)) return void read(chat, told.number - 1);
      reading.own = more === "asked"; // else the message stands in the chat by now
      draw();
      if (reading.ended) finish(chat, told.number);
      return;
    }
    if (reading?.chat === chat && reading.number === told.number && reading.begun) return; // the next one runs already
    if (reading && !(reading.chat === chat && reading.number === told.number)) {
      reading.abort.abort();
      reading = null;
    }
    clearTimeout(timer);
    timer = 0;
    asked = text = status = "";
    // A drawing that was under way may have come after the end.
    setTimeout(() => { if (!text && !asked && document.querySelector(":is(#live-turn, #live-question) .md > *")) draw(); }, 200);
  };

  // The answer is asked for together with the message, so that its first word waits for nothing.
  const early = () => {
    const box = document.querySelector("#chat-input textarea");
    if (!told.chat || told.running || !box?.value.trim()) return;
    here.toEnd();
    read(told.chat, told.number, true);
  };
  document.addEventListener("click", ({ target }) => { if (target.closest?.("#send")) early(); }, true);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.target.matches?.("#chat-input textarea")) early();
  }, true);
}
