// Compiles SPIR-V compute modules with the first Vulkan device, as wgpu does, and prints what the compiler says:
// `compile --device`, or `compile [--assembly FOLDER] [--limit MILLISECONDS] FILE.spv...`. A line of JSON each.
//
// --device prints the device, its driver and what shaders may need. Otherwise a line for each module has the lanes of a
// subgroup and the driver's statistics, or the VkResult of a refusal. --assembly writes the assembly of FILE to
// FOLDER/FILE.s. A module that takes more than the limit of processor time, a minute by default, or five times that in all,
// ends the process with a signal.
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>
#include <vulkan/vulkan.h>

enum { SETS = 4, BINDINGS = 64 };

static void check(VkResult result, const char *call) {
    if (result < 0) {
        fprintf(stderr, "%s: VkResult %d\n", call, result);
        exit(1);
    }
}
#define CHECK(call) check(call, #call)

static void json(const char *text) {
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        if ((unsigned char)*text < 32) printf("\\u%04x", *text);
        else putchar(*text);
    }
    putchar('"');
}

static VkInstance instance;
static VkPhysicalDevice physical;
static VkPhysicalDeviceProperties properties;
static VkDevice device;

static int limit_ms = 60000;

// Processor time for a compiler that loops, and more time for one that waits.
static void limit(int ms) {
    struct itimerval timer = {.it_value = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000}};
    setitimer(ITIMER_PROF, &timer, NULL);
    alarm((5 * ms + 999) / 1000);
}

static const char *extensions[8];
static uint32_t extension_count;

// Enables an extension if the device has it.
static int enable(const char *name) {
    static VkExtensionProperties all[1024];
    uint32_t count = 1024;
    CHECK(vkEnumerateDeviceExtensionProperties(physical, NULL, &count, all));
    for (uint32_t i = 0; i < count; i++) {
        if (!strcmp(all[i].extensionName, name)) {
            extensions[extension_count++] = name;
            return 1;
        }
    }
    return 0;
}

// Opens the device with the features that it has, and robustBufferAccess2 among them.
static VkPhysicalDeviceVulkan12Features open_device(int *robust) {
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrices = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR};
    VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR executables = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR};
    VkPhysicalDeviceRobustness2FeaturesEXT robustness = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_ROBUSTNESS_2_FEATURES_EXT};
    VkPhysicalDeviceVulkan13Features v13 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES};
    VkPhysicalDeviceVulkan12Features v12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES,
                                            .pNext = &v13};
    VkPhysicalDeviceVulkan11Features v11 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES,
                                            .pNext = &v12};
    VkPhysicalDeviceFeatures2 features = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &v11};
    if (!enable("VK_KHR_pipeline_executable_properties")) {
        fprintf(stderr, "%s: no VK_KHR_pipeline_executable_properties\n", properties.deviceName);
        exit(1);
    }
    executables.pNext = v13.pNext;
    v13.pNext = &executables;
    if (enable("VK_EXT_robustness2")) {
        robustness.pNext = v13.pNext;
        v13.pNext = &robustness;
    }
    if (enable("VK_KHR_cooperative_matrix")) {
        matrices.pNext = v13.pNext;
        v13.pNext = &matrices;
    }
    vkGetPhysicalDeviceFeatures2(physical, &features);
    robustness.robustImageAccess2 = robustness.nullDescriptor = v13.robustImageAccess = VK_FALSE;
    float priority = 1;
    VkDeviceQueueCreateInfo queue = {
        .sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO, .queueCount = 1, .pQueuePriorities = &priority};
    VkDeviceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                               .pNext = &features,
                               .queueCreateInfoCount = 1,
                               .pQueueCreateInfos = &queue,
                               .enabledExtensionCount = extension_count,
                               .ppEnabledExtensionNames = extensions};
    CHECK(vkCreateDevice(physical, &info, NULL, &device));
    *robust = robustness.robustBufferAccess2;
    v12.pNext = NULL;
    return v12;
}

// Prints what a shader may need of the device.
static void print_device(void) {
    VkPhysicalDeviceVulkan13Properties v13 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_PROPERTIES};
    VkPhysicalDeviceDriverProperties driver = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES,
                                               .pNext = &v13};
    VkPhysicalDeviceProperties2 all = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &driver};
    vkGetPhysicalDeviceProperties2(physical, &all);
    int robust;
    VkPhysicalDeviceVulkan12Features features = open_device(&robust);
    printf("{\"device\":");
    json(properties.deviceName);
    printf(",\"driver\":");
    json(driver.driverInfo);
    printf(",\"robust\":%s,\"f16\":%s,\"subgroups\":[%u,%u],\"workgroup_bytes\":%u,\"matrices\":[",
           robust ? "true" : "false", features.shaderFloat16 ? "true" : "false", v13.minSubgroupSize,
           v13.maxSubgroupSize, properties.limits.maxComputeSharedMemorySize);
    PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR list =
        (void *)vkGetInstanceProcAddr(instance, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR");
    static VkCooperativeMatrixPropertiesKHR kinds[256];
    for (int i = 0; i < 256; i++) kinds[i].sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR;
    uint32_t count = 256, printed = 0;
    // The loader's function calls nothing on a driver that lacks the extension.
    if (!enable("VK_KHR_cooperative_matrix") || list(physical, &count, kinds) < 0) count = 0;
    for (uint32_t i = 0; i < count; i++) {
        VkCooperativeMatrixPropertiesKHR *kind = &kinds[i];
        if (kind->CType != VK_COMPONENT_TYPE_FLOAT32_KHR || kind->ResultType != VK_COMPONENT_TYPE_FLOAT32_KHR) continue;
        if (kind->AType != kind->BType || kind->AType > VK_COMPONENT_TYPE_FLOAT32_KHR) continue;
        printf("%s\"%ux%ux%u f%d\"", printed++ ? "," : "", kind->MSize, kind->NSize, kind->KSize,
               kind->AType == VK_COMPONENT_TYPE_FLOAT16_KHR ? 16 : 32);
    }
    printf("]}\n");
}

// Returns the words of a file.
static uint32_t *read_words(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(1);
    }
    fseek(file, 0, SEEK_END);
    *bytes = ftell(file);
    rewind(file);
    uint32_t *words = malloc(*bytes);
    if (*bytes < 20 || fread(words, 1, *bytes, file) != *bytes) {
        fprintf(stderr, "%s: no SPIR-V\n", path);
        exit(1);
    }
    fclose(file);
    return words;
}

// Returns the layout of the module's storage and uniform buffers. wgpu-hal's parameters have a dynamic offset.
static VkPipelineLayout layout_of(const uint32_t *code, size_t words) {
    typedef struct {
        uint32_t set, binding;
        int decorated;
    } Variable;
    Variable *variables = calloc(code[3], sizeof *variables);
    VkDescriptorSetLayoutBinding bindings[SETS][BINDINGS];
    uint32_t in_set[SETS] = {0}, sets = 0;
    for (size_t i = 5; i < words && code[i] >> 16; i += code[i] >> 16) {
        const uint32_t *op = &code[i];
        switch (op[0] & 0xffff) {
        case 71: // OpDecorate
            if (op[2] == 34) variables[op[1]].set = op[3], variables[op[1]].decorated |= 1;
            if (op[2] == 33) variables[op[1]].binding = op[3], variables[op[1]].decorated |= 2;
            break;
        case 59: { // OpVariable
            Variable *variable = &variables[op[2]];
            if (variable->decorated != 3 || variable->set >= SETS || in_set[variable->set] == BINDINGS) break;
            uint32_t set = variable->set;
            bindings[set][in_set[set]++] = (VkDescriptorSetLayoutBinding){
                .binding = variable->binding,
                // Class 12 is StorageBuffer.
                .descriptorType =
                    op[3] == 12 ? VK_DESCRIPTOR_TYPE_STORAGE_BUFFER : VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER_DYNAMIC,
                .descriptorCount = 1,
                .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT};
            if (set + 1 > sets) sets = set + 1;
        }
        }
    }
    free(variables);
    VkDescriptorSetLayout layouts[SETS];
    for (uint32_t set = 0; set < sets; set++) {
        VkDescriptorSetLayoutCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO,
                                                .bindingCount = in_set[set],
                                                .pBindings = bindings[set]};
        CHECK(vkCreateDescriptorSetLayout(device, &info, NULL, &layouts[set]));
    }
    VkPipelineLayoutCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO, .setLayoutCount = sets, .pSetLayouts = layouts};
    VkPipelineLayout layout;
    CHECK(vkCreatePipelineLayout(device, &info, NULL, &layout));
    return layout;
}

// Writes the representation whose name has "ssembly" or else the last text to FOLDER/NAME.s.
static void write_assembly(const VkPipelineExecutableInfoKHR *executable, const char *folder, const char *name) {
    PFN_vkGetPipelineExecutableInternalRepresentationsKHR representations =
        (void *)vkGetDeviceProcAddr(device, "vkGetPipelineExecutableInternalRepresentationsKHR");
    static VkPipelineExecutableInternalRepresentationKHR all[32];
    memset(all, 0, sizeof all);
    for (int i = 0; i < 32; i++) all[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INTERNAL_REPRESENTATION_KHR;
    uint32_t count = 32, best = 0;
    if (representations(device, executable, &count, all) < 0 || !count) return;
    for (uint32_t i = 0; i < count; i++) {
        all[i].pData = calloc(1, all[i].dataSize + 1);
        if (all[i].isText && (strstr(all[i].name, "ssembly") || !strstr(all[best].name, "ssembly"))) best = i;
    }
    representations(device, executable, &count, all);
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.s", folder, name);
    FILE *file = fopen(path, "w");
    if (file) {
        fputs(all[best].pData, file);
        fclose(file);
    }
    for (uint32_t i = 0; i < count; i++) free(all[i].pData);
}

// Compiles a module and prints its line.
static void compile(const char *path, const char *assembly) {
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    size_t bytes;
    uint32_t *code = read_words(path, &bytes);
    VkShaderModuleCreateInfo module_info = {
        .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO, .codeSize = bytes, .pCode = code};
    VkShaderModule module;
    CHECK(vkCreateShaderModule(device, &module_info, NULL, &module));
    VkComputePipelineCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
        .flags = VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR |
                 (assembly ? VK_PIPELINE_CREATE_CAPTURE_INTERNAL_REPRESENTATIONS_BIT_KHR : 0),
        .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                  .flags = VK_PIPELINE_SHADER_STAGE_CREATE_ALLOW_VARYING_SUBGROUP_SIZE_BIT,
                  .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                  .module = module,
                  .pName = "main"},
        .layout = layout_of(code, bytes / 4)};
    VkPipeline pipeline;
    limit(limit_ms);
    VkResult made = vkCreateComputePipelines(device, VK_NULL_HANDLE, 1, &info, NULL, &pipeline);
    limit(0);
    printf("{\"file\":");
    json(name);
    if (made != VK_SUCCESS) {
        printf(",\"refused\":%d}\n", made);
        fflush(stdout);
        free(code);
        return;
    }

    PFN_vkGetPipelineExecutablePropertiesKHR executables =
        (void *)vkGetDeviceProcAddr(device, "vkGetPipelineExecutablePropertiesKHR");
    PFN_vkGetPipelineExecutableStatisticsKHR statistics =
        (void *)vkGetDeviceProcAddr(device, "vkGetPipelineExecutableStatisticsKHR");
    VkPipelineInfoKHR pipeline_info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_INFO_KHR, .pipeline = pipeline};
    VkPipelineExecutablePropertiesKHR executable = {.sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_PROPERTIES_KHR};
    uint32_t count = 1;
    CHECK(executables(device, &pipeline_info, &count, &executable));
    VkPipelineExecutableInfoKHR which = {.sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR, .pipeline = pipeline};
    static VkPipelineExecutableStatisticKHR all[64];
    for (int i = 0; i < 64; i++) all[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR;
    count = 64;
    CHECK(statistics(device, &which, &count, all));
    printf(",\"lanes\":%u,\"statistics\":{", executable.subgroupSize);
    for (uint32_t i = 0; i < count; i++) {
        VkPipelineExecutableStatisticValueKHR value = all[i].value;
        if (i) putchar(',');
        json(all[i].name);
        switch (all[i].format) {
        case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_BOOL32_KHR: printf(":%d", value.b32 != 0); break;
        case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_INT64_KHR: printf(":%lld", (long long)value.i64); break;
        case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_UINT64_KHR: printf(":%llu", (unsigned long long)value.u64); break;
        default: printf(":%g", value.f64);
        }
    }
    printf("}}\n");
    if (assembly) write_assembly(&which, assembly, name);
    fflush(stdout);
    vkDestroyPipeline(device, pipeline, NULL);
    vkDestroyShaderModule(device, module, NULL);
    free(code);
}

int main(int argc, char **argv) {
    VkApplicationInfo application = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = VK_API_VERSION_1_3};
    VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &application};
    CHECK(vkCreateInstance(&info, NULL, &instance));
    uint32_t count = 1;
    CHECK(vkEnumeratePhysicalDevices(instance, &count, &physical));
    if (!count) {
        fprintf(stderr, "no device\n");
        return 1;
    }
    vkGetPhysicalDeviceProperties(physical, &properties);
    if (argc == 2 && !strcmp(argv[1], "--device")) {
        print_device();
        fflush(stdout);
        _Exit(0);
    }
    const char *assembly = NULL;
    int first = 1, robust;
    if (argc > first + 1 && !strcmp(argv[first], "--assembly")) assembly = argv[first + 1], first += 2;
    if (argc > first + 1 && !strcmp(argv[first], "--limit")) limit_ms = atoi(argv[first + 1]), first += 2;
    open_device(&robust);
    for (int i = first; i < argc; i++) compile(argv[i], assembly);
    // A device that is not there has nothing to tear down.
    _Exit(0);
}
