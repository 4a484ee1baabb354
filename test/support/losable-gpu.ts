/** A GPU that can be taken away from what computes on it, as a driver that is reset does. */
import { over } from './over.ts'

/** Takes the GPU away. later: milliseconds until the device's `lost` tells. */
export type Lose = (message: string, later?: number) => void

/** Is told what is called of the device, such as submit, before it is done. What it returns is the call's result instead. */
export type OnCall = (method: string, lose: Lose) => unknown

/**
 * A GPU whose device is one of the real GPU. When it is lost, that device is destroyed: its calls then do what those of
 * a lost device do, without an error for the most part. Only its `lost` tells another reason.
 */
export function losable(gpu: GPU, onCall: OnCall): GPU {
  return over(gpu, {
    requestAdapter: async (...options: Parameters<GPU['requestAdapter']>) => {
      const adapter = await gpu.requestAdapter(...options)
      return (
        adapter &&
        over(adapter, {
          requestDevice: async (descriptor: GPUDeviceDescriptor) =>
            losableDevice(await adapter.requestDevice(descriptor), onCall),
        })
      )
    },
  })
}

function losableDevice(device: GPUDevice, onCall: OnCall): GPUDevice {
  const { promise: lost, resolve } = Promise.withResolvers<GPUDeviceLostInfo>()
  let isLost = false
  void device.lost.then(info => isLost || resolve(info))
  const lose: Lose = (message, later = 0) => {
    isLost = true
    device.destroy()
    setTimeout(() => resolve({ __brand: 'GPUDeviceLostInfo', reason: 'unknown', message }), later)
  }
  const onEach = (method: string) => onCall(method, lose)
  return over(device, { lost, queue: over(device.queue, {}, onEach) }, onEach)
}
