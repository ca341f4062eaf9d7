/* Search from the file system: browsers start no Worker there, so its script runs in a hidden frame. */
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.title = "search"
      this.ready = new Promise((resolve, reject) => {
        document.body.append(frame)
        const inside = frame.contentWindow
        inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
        const script = inside.document.createElement("script")
        script.onload = () => resolve(inside)
        script.onerror = () => reject(new Error(`${url} cannot be loaded`))
        script.src = url
        inside.document.body.append(script)
      })
    }
    postMessage(data) {
      this.ready.then(inside => inside.dispatchEvent(new MessageEvent("message", { data })))
    }
    terminate() {
      this.ready.then(inside => inside.frameElement.remove())
    }
  }
  window.Worker = window.IFrameWorker
}
