// Notices when the GPU is lost or refuses a command.
import { GpuLostError, firstLine } from './device.ts'

export class DeviceWatch {
  private readonly device: GPUDevice
  private failure: Error | undefined
  /** Resolves when the GPU is lost, or was given back. */
  private readonly gone: Promise<void>

  constructor(device: GPUDevice) {
    this.device = device
    this.gone = this.watch()
    device.onuncapturederror = ({ error }) =>
      this.fail(new Error(`the GPU refused a command: ${error.message}`))
  }

  /** Notes why the GPU cannot be used from here on, unless something is noted already. */
  fail(error: Error): void {
    this.failure ??= error
  }

  /** Throws what has gone wrong so far. */
  check(): void {
    if (this.failure) throw this.failure
  }

  /** Waits for a promise. Throws the reason if the GPU cannot fulfil it. */
  async waiting<T>(promise: Promise<T>): Promise<T> {
    try {
      const value = await promise
      this.check()
      return value
    } catch (error) {
      // The loss of a GPU is reported a moment after the commands that it interrupts fail.
      await Promise.race([this.gone, new Promise(resolve => setTimeout(resolve, 200))])
      throw this.failure ?? error
    }
  }

  /** Waits until the GPU is lost: its driver was reset, or the machine slept. */
  private async watch(): Promise<void> {
    const { reason, message } = await this.device.lost
    if (reason === 'destroyed') return
    this.failure = new GpuLostError(firstLine(message) || 'its driver gives no reason')
  }
}
